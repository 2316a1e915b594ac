//! Making images from Debian packages. The packages come through apt, which checks their signatures; nothing is installed on the node.
//!
//! Container recipes are made as a tar and taken in like any other; VM recipes are made as a kernel and an initial file system, and a disk
//! where there is one.

mod busybox;
mod cpio;
mod debian;
mod kernel;
mod packages;
mod programs;
mod small_vm;

use super::{archive::Ready, fault, job::Job, staging::Staging, store::Store};
use packages::Packages;
use std::{path::Path, sync::Arc};
use yun_drivers::{DriverError, Result};
use yun_types::{ImageRecipe, RecipeBase};

/// What a build has at hand.
struct Builder<'a> {
    recipe: &'a ImageRecipe,
    store: &'a Store,
    staging: Arc<Staging>,
    job: &'a Job,
    packages: Packages,
}

/// Builds what the recipe says.
pub(super) async fn build(recipe: &ImageRecipe, store: &Store, staging: Arc<Staging>, job: &Job) -> Result<Ready> {
    check(recipe)?;
    job.room(staging.path(), 64 << 20, "build the image")?;
    let packages = Packages::new(store.cache(), recipe.suite.clone(), job).await?;
    let builder = Builder { recipe, store, staging, job, packages };
    let built = match recipe.base {
        RecipeBase::Busybox => busybox::build(&builder).await,
        RecipeBase::SmallVm => small_vm::build(&builder).await,
        RecipeBase::DebianVm => debian::vm(&builder).await,
        RecipeBase::Debian => debian::container(&builder).await,
    };
    builder.packages.trim(job).await;
    built
}

/// Refuses recipes that make no sense, before anything is fetched.
fn check(recipe: &ImageRecipe) -> Result<()> {
    let named = |text: &str| {
        !text.is_empty()
            && text.len() <= 100
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.:".contains(&b))
            && !text.starts_with('-')
    };
    if let Some(bad) = recipe.packages.iter().find(|p| !named(p)) {
        return Err(DriverError::bad_request(
            "BadRecipe",
            format!(
                "the package name {} is not one that Debian uses; write one like openssh-server",
                fault::shown(bad.as_bytes())
            ),
        ));
    }
    if let Some(bad) = recipe.suite.as_ref().filter(|s| !named(s)) {
        return Err(DriverError::bad_request(
            "BadRecipe",
            format!("the release {} is not one of Debian's; write one like bookworm", fault::shown(bad.as_bytes())),
        ));
    }
    let vm = matches!(recipe.base, RecipeBase::SmallVm | RecipeBase::DebianVm);
    if vm && !(recipe.entrypoint.is_empty() && recipe.command.is_empty()) {
        return Err(DriverError::bad_request(
            "BadRecipe",
            format!("{} is a VM and starts by itself: an entrypoint or a command is for containers", recipe.base),
        ));
    }
    if recipe.base == RecipeBase::Busybox && !recipe.packages.is_empty() {
        return Err(DriverError::bad_request(
            "BadRecipe",
            "the busybox image has nothing that packages could run on; use the recipe debian for them",
        ));
    }
    Ok(())
}

/// Programs that imports and builds call, and the packages that bring them.
const PROGRAMS: [(&str, &str); 6] = [
    ("qemu-img", "qemu-utils"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("mmdebstrap", "mmdebstrap"),
    ("mkfs.ext4", "e2fsprogs"),
    ("dpkg", "dpkg"),
];

/// The programs that are not here, each with the way to get it.
pub(super) fn missing_programs() -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<_> = std::env::split_paths(&path).collect();
    let here = |name: &str| dirs.iter().any(|dir| Path::new(dir).join(name).is_file());
    PROGRAMS
        .iter()
        .filter(|(name, _)| !here(name))
        .map(|(name, package)| format!("{name} is not installed: run apt-get install {package}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(base: RecipeBase) -> ImageRecipe {
        ImageRecipe { base, packages: vec![], suite: None, entrypoint: vec![], command: vec![] }
    }

    #[test]
    fn recipes_that_make_no_sense_are_refused_before_anything_is_fetched() {
        assert!(check(&recipe(RecipeBase::SmallVm)).is_ok());
        for bad in ["", "--force", "a b", "a;b", "$(x)"] {
            let with = ImageRecipe { packages: vec![bad.into()], ..recipe(RecipeBase::Debian) };
            assert_eq!(check(&with).unwrap_err().reason, "BadRecipe", "{bad}");
        }
        assert!(check(&ImageRecipe { suite: Some("../x".into()), ..recipe(RecipeBase::Debian) }).is_err());
        assert!(check(&ImageRecipe { command: vec!["sh".into()], ..recipe(RecipeBase::SmallVm) }).is_err());
        assert!(check(&ImageRecipe { packages: vec!["curl".into()], ..recipe(RecipeBase::Busybox) }).is_err());
    }
}
