//! `yun commit`: an image from what a container's files are now.

use super::{
    super::{
        Code,
        connect::{Cloud, Explained},
        follow::follow,
        instance, output,
    },
    args::CommitArgs,
};
use anyhow::{Result, bail};
use futures::TryStreamExt;
use std::{io, time::Duration};
use yun_types::{ContainerConfig, ContainerOptions, ImageFormat, InstanceKind};

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Makes an image of a container.
pub(crate) async fn commit(cloud: &Cloud, args: CommitArgs) -> Result<Code> {
    let found = instance::get(cloud, &args.instance).await?;
    let name = found.metadata.name;
    if found.spec.kind != Some(InstanceKind::Container) {
        bail!("instance {name} is a VM, and only containers are committed: take a snapshot of it instead");
    }
    let image = cloud.client.image_get().project(cloud.project.clone()).image(found.spec.image).send().await.ok();
    let base = image.and_then(|image| image.into_inner().status.facts.config).unwrap_or_default();
    let config = serde_json::to_string(&with_options(base, found.spec.container))?;
    let files = cloud.client.instance_files_read().project(cloud.project.clone()).instance(name.clone()).path("/");
    let body = files.send().await.map_err(super::super::connect::explain)?.into_inner().into_inner();
    let request = cloud
        .client
        .image_upload()
        .project(cloud.project.clone())
        .name(args.image.clone())
        .format(ImageFormat::Rootfs)
        .source(format!("commit of {name}"))
        .config(config);
    let operation =
        request.body(reqwest::Body::wrap_stream(body.map_err(io::Error::other))).send().await.explained()?;
    follow(cloud, operation, PATIENCE).await?;
    output::print_line(args.image.as_str())?;
    Ok(0)
}

/// What the container was told to run becomes what the image says.
fn with_options(mut config: ContainerConfig, options: ContainerOptions) -> ContainerConfig {
    if let Some(entrypoint) = options.entrypoint {
        // The command of the image belonged to its entrypoint.
        (config.entrypoint, config.command) = (entrypoint, Vec::new());
    }
    config.command = options.command.unwrap_or(config.command);
    config.env.retain(|line| line.split_once('=').is_none_or(|(name, _)| !options.env.contains_key(name)));
    config.env.extend(options.env.iter().map(|(name, value)| format!("{name}={value}")));
    config.user = options.user.or(config.user);
    config.workdir = options.workdir.or(config.workdir);
    config.stop_signal = options.stop_signal.or(config.stop_signal);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_runs_what_the_container_ran() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let base = ContainerConfig {
            entrypoint: words("/e"),
            command: words("c"),
            env: words("A=1 B=2"),
            ..Default::default()
        };
        let options = ContainerOptions {
            command: Some(words("d e")),
            env: [("B".into(), "3".into())].into(),
            ..Default::default()
        };
        let config = with_options(base.clone(), options);
        assert_eq!((config.entrypoint, config.command, config.env), (words("/e"), words("d e"), words("A=1 B=3")));
        let options = ContainerOptions { entrypoint: Some(words("/f")), ..Default::default() };
        assert_eq!(with_options(base, options).command, [""; 0]);
    }
}
