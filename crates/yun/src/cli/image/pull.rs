//! `yun image pull`, and the pull that a launch makes when its image is not here.

use anyhow::{Context as _, Result};
use yun_api::cloud::ImageOrigin;
use yun_types::{Name, Reference, RegistryCredentials, RegistryPull};

use super::{
    args::PullArgs,
    create,
    registries::{self, Registries},
};
use crate::cli::{Code, connect::Cloud};

/// Fetches an image.
pub(crate) async fn run(cloud: &Cloud, args: PullArgs) -> Result<Code> {
    let name = named(args.name, &args.reference)?;
    let given = match args.user {
        Some(user) => Some(RegistryCredentials { user, password: registries::password()? }),
        None => Registries::find(&cloud.config, &args.reference)?,
    };
    let pull = RegistryPull { reference: args.reference, credentials: given, insecure: args.insecure };
    create(cloud, name, ImageOrigin::Registry { pull }, args.detach).await
}

/// Fetches the image of a launch if it is a reference whose image is not here, and says so.
pub(crate) async fn if_absent(cloud: &Cloud, text: &str) -> Result<()> {
    if !Reference::is_meant(text)
        || cloud.client.image_get().project(cloud.project.clone()).image(text).send().await.is_ok()
    {
        return Ok(());
    }
    let reference: Reference = text.parse()?;
    let name = named(None, &reference)?;
    eprintln!("image {text} is not here: pulling {reference} as image {name}");
    let credentials = Registries::find(&cloud.config, &reference)?;
    let pull = RegistryPull { reference, credentials, insecure: false };
    super::made(cloud, &name, ImageOrigin::Registry { pull }).await.map(drop)
}

/// Fetches an image by its reference, whose host may be left out, as Compose files have it. Answers its name.
pub(crate) async fn by_reference(cloud: &Cloud, text: &str) -> Result<Name> {
    let reference: Reference = text.parse()?;
    let name = named(None, &reference)?;
    eprintln!("image {text} is not here: pulling {reference} as image {name}");
    let credentials = Registries::find(&cloud.config, &reference)?;
    let pull = RegistryPull { reference, credentials, insecure: false };
    super::made(cloud, &name, ImageOrigin::Registry { pull }).await.map(|_| name)
}

fn named(name: Option<Name>, reference: &Reference) -> Result<Name> {
    name.or_else(|| reference.suggested_name()).with_context(|| {
        format!("{reference} gives no name for the image: say one, as in yun image pull NAME {reference}")
    })
}
