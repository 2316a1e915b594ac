//! `yun image export`: all of a file or nothing of it.

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use std::io::IsTerminal as _;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::args::ExportArgs;
use crate::cli::{
    connect::{Cloud, explain},
    follow::line,
    output,
};
use yun_types::Bytes;

/// Writes an image.
pub(super) async fn run(cloud: &Cloud, args: &ExportArgs) -> Result<()> {
    if args.file == "-" {
        anyhow::ensure!(
            !std::io::stdout().is_terminal(),
            "an image is nothing to look at: send it into a file or a pipe"
        );
        return copy(cloud, args, &mut tokio::io::stdout()).await.map(drop);
    }
    if std::path::Path::new(&args.file).exists() {
        bail!("{} is there already: choose another file, or remove it first", args.file);
    }
    let draft = format!("{}.part", args.file);
    let written = write(cloud, args, &draft).await;
    if written.is_err() {
        let _ = tokio::fs::remove_file(&draft).await;
    }
    let size = written?;
    if !cloud.quiet {
        output::print_line(&format!("{}: {}", args.file, Bytes(size).human()))?;
    }
    Ok(())
}

async fn write(cloud: &Cloud, args: &ExportArgs, draft: &str) -> Result<u64> {
    let failed = || format!("cannot write {}", args.file);
    let mut file = tokio::fs::File::create(draft).await.with_context(failed)?;
    let size = copy(cloud, args, &mut file).await?;
    file.sync_all().await.with_context(failed)?;
    tokio::fs::rename(draft, &args.file).await.with_context(failed)?;
    Ok(size)
}

async fn copy(cloud: &Cloud, args: &ExportArgs, to: &mut (impl AsyncWrite + Unpin)) -> Result<u64> {
    let bar = line(cloud.quiet);
    bar.set_message("the server packs the image");
    let mut request = cloud.client.image_export().project(cloud.project.clone()).image(args.image.clone());
    if let Some(format) = args.format {
        request = request.format(format);
    }
    let mut body = request.send().await.map_err(explain)?.into_inner().into_inner();
    let mut size = 0;
    while let Some(piece) = body.try_next().await.context("the image did not arrive whole")? {
        to.write_all(&piece).await.with_context(|| format!("cannot write to {}", args.file))?;
        size += piece.len() as u64;
        bar.set_message(format!("{} written", Bytes(size).human()));
    }
    to.flush().await.with_context(|| format!("cannot write to {}", args.file))?;
    bar.finish_and_clear();
    Ok(size)
}
