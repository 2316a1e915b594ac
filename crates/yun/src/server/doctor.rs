//! `yun doctor`: what is wrong with this machine, and how to mend it.

use anyhow::Result;
use yun_linux::host::{Host, doctor};

use super::config::Config;
use crate::cli::args::{Format, Global, RootArgs};

/// Checks the host. Exit code 1 if something keeps yun from working.
pub(crate) async fn doctor(global: &Global, args: &RootArgs) -> Result<u8> {
    let host = args.root.join("var/lib/yun/cloud-id").exists().then(|| Host::open(&args.root)).transpose()?;
    let drivers = match &host {
        Some(host) if super::require_root().is_ok() => {
            super::wiring::probe(&Config::load(&args.root.join("etc/yun/yun.toml"))?, host).await?
        }
        _ => Vec::new(),
    };
    let findings = doctor::doctor(host.as_ref(), &drivers).await;
    if global.output == Format::Json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            println!("{:8} {:18} {}", finding.level.to_string(), finding.check, finding.found);
            if let Some(mend) = &finding.mend {
                println!("{:27} mend: {mend}", "");
            }
        }
    }
    Ok(u8::from(findings.iter().any(|f| f.level == doctor::Level::Problem)))
}
