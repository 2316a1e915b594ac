//! Commands on images.

use anyhow::{Context as _, Result};
use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use std::{io::IsTerminal, time::Duration};
use tokio_util::io::ReaderStream;
use yun_api::cloud::{ImageCreate, ImageOrigin};
use yun_types::{Image, ImageRecipe, Name, Operation, RecipeBase};

pub(crate) mod args;
mod export;
mod prune;
pub(crate) mod pull;
pub(crate) mod registries;

use super::{
    Code,
    connect::{Cloud, Explained},
    follow::follow,
    output,
};
use args::{BuildArgs, ImageCommand, ImportArgs};

/// How long an import or a build may take before the command line stops following it.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What official cloud images have.
const CLOUD_INIT: [&str; 2] = ["cloud-init", "cloud-guest-utils"];

/// Carries out a command on images.
pub(crate) async fn run(cloud: &Cloud, command: ImageCommand) -> Result<Code> {
    match command {
        ImageCommand::Ls => {
            let page = cloud.client.image_list().project(cloud.project.clone()).limit(1000).send().await.explained()?;
            output::list(
                &page.items,
                cloud.output,
                "no images: make one with yun image build small-vm small, or take one in with yun image import",
            )?;
        }
        ImageCommand::Show { image } => {
            let image = get(cloud, &image).await?;
            output::object(&image, cloud.output, image.metadata.name.as_str())?;
        }
        ImageCommand::Build(args) => return build(cloud, args).await,
        ImageCommand::Import(args) => return import(cloud, args).await,
        ImageCommand::Pull(args) => return pull::run(cloud, args).await,
        ImageCommand::Login(_) | ImageCommand::Logout { .. } => {
            unreachable!("carried out before a connection is needed")
        }
        ImageCommand::Verify { image } => {
            let image =
                cloud.client.image_verify().project(cloud.project.clone()).image(image).send().await.explained()?;
            output::print_line(&format!("{}: the content is what its digest says", image.metadata.name))?;
        }
        ImageCommand::Export(args) => export::run(cloud, &args).await?,
        ImageCommand::Prune { dry_run, keep } => prune::run(cloud, dry_run, &keep).await?,
        ImageCommand::Rm { images } => {
            for image in images {
                cloud
                    .client
                    .image_delete()
                    .project(cloud.project.clone())
                    .image(image.clone())
                    .send()
                    .await
                    .explained()?;
                output::print_line(&image)?;
            }
        }
    }
    Ok(0)
}

async fn get(cloud: &Cloud, word: &str) -> Result<Image> {
    cloud.client.image_get().project(cloud.project.clone()).image(word).send().await.explained()
}

async fn build(cloud: &Cloud, args: BuildArgs) -> Result<Code> {
    let name = args.name.map_or_else(|| args.base.to_string().parse::<Name>(), Ok)?;
    anyhow::ensure!(
        !args.cloud_init || args.base == RecipeBase::DebianVm,
        "--cloud-init is for debian-vm: {} has no room for it, or is no VM",
        args.base
    );
    let mut packages = args.packages;
    packages.extend(CLOUD_INIT.iter().filter(|_| args.cloud_init).map(|p| (*p).to_owned()));
    let recipe = ImageRecipe {
        base: args.base,
        packages,
        suite: args.suite,
        entrypoint: args.entrypoint.into_iter().collect(),
        command: args.command,
    };
    create(cloud, name, ImageOrigin::Build { recipe }, args.detach).await
}

/// Asks for an image; the operation that makes it.
async fn begin(cloud: &Cloud, name: &Name, source: ImageOrigin) -> Result<Operation> {
    let key = format!("image-{}", uuid::Uuid::new_v4());
    let body = ImageCreate { name: name.clone(), labels: Default::default(), source };
    let request = cloud.client.image_create().project(cloud.project.clone()).idempotency_key(key).body(body);
    request.send().await.explained()
}

/// Makes an image and waits for it.
async fn made(cloud: &Cloud, name: &Name, source: ImageOrigin) -> Result<Operation> {
    follow(cloud, begin(cloud, name, source).await?, PATIENCE).await
}

async fn create(cloud: &Cloud, name: Name, source: ImageOrigin, detach: bool) -> Result<Code> {
    let operation = begin(cloud, &name, source).await?;
    if detach {
        output::print_line(&operation.metadata.id.to_string())?;
        return Ok(0);
    }
    follow(cloud, operation, PATIENCE).await?;
    report(cloud, &name).await
}

async fn import(cloud: &Cloud, args: ImportArgs) -> Result<Code> {
    if args.source.starts_with("http://") || args.source.starts_with("https://") {
        let source = ImageOrigin::Url { url: args.source, format: args.format, checksum: args.checksum };
        return create(cloud, args.name, source, args.detach).await;
    }
    let bar = ProgressBar::hidden();
    let body = if args.source == "-" {
        reqwest::Body::wrap_stream(counted(tokio::io::stdin(), &bar))
    } else {
        let file = tokio::fs::File::open(&args.source)
            .await
            .with_context(|| format!("cannot read the image file {}", args.source))?;
        let length = file.metadata().await?;
        anyhow::ensure!(
            length.is_file(),
            "{} is not a file: give an image file, or pack a directory with tar first",
            args.source
        );
        show(&bar, length.len(), cloud.quiet);
        reqwest::Body::wrap_stream(counted(file, &bar))
    };
    let name = args.name.clone();
    let mut request = cloud.client.image_upload().project(cloud.project.clone()).name(args.name).source(args.source);
    if let Some(format) = args.format {
        request = request.format(format);
    }
    if let Some(checksum) = args.checksum {
        request = request.checksum(checksum);
    }
    if let Some(entrypoint) = args.entrypoint {
        request = request.entrypoint(serde_json::to_string(&[entrypoint])?);
    }
    if !args.command.is_empty() {
        request = request.command(serde_json::to_string(&args.command)?);
    }
    let operation: Operation = request.body(body).send().await.explained()?;
    bar.finish_and_clear();
    follow(cloud, operation, PATIENCE).await?;
    report(cloud, &name).await
}

fn counted(
    reader: impl tokio::io::AsyncRead + Send + 'static,
    bar: &ProgressBar,
) -> impl futures::Stream<Item = std::io::Result<bytes::Bytes>> + Send + 'static {
    let bar = bar.clone();
    ReaderStream::with_capacity(reader, 256 << 10).inspect_ok(move |bytes| {
        bar.inc(bytes.len() as u64);
        if bar.length().is_some_and(|all| bar.position() >= all) {
            bar.set_message("the server checks and unpacks it");
        }
    })
}

fn show(bar: &ProgressBar, length: u64, quiet: bool) {
    if quiet || !std::io::stderr().is_terminal() {
        return;
    }
    bar.set_length(length);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}") {
        bar.set_style(style);
    }
    bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
    bar.enable_steady_tick(Duration::from_millis(200));
}

async fn report(cloud: &Cloud, name: &Name) -> Result<Code> {
    let image = get(cloud, name.as_str()).await?;
    match cloud.output {
        crate::cli::args::Format::Table | crate::cli::args::Format::Wide => {
            let facts = &image.status.facts;
            output::print_line(&format!(
                "image {name}: {} for {}, {}, {}",
                facts.kind,
                facts.arch,
                facts.size.human(),
                facts.digest.short()
            ))?;
        }
        format => output::object(&image, format, name.as_str())?,
    }
    Ok(0)
}
