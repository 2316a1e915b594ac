//! Fetching images from OCI registries (OCI distribution spec 1.1, "Pull"): manifest, config, and those layers that are not here.
//!
//! What a registry says is bounded in size and in time, and everything is compared with the hash that names it. Layers arrive in
//! `downloads`, where a broken one waits to be resumed; from there they are taken in like those of an archive. Words: a layer is *shared*
//! if the store has it already.

mod challenge;
mod client;
mod download;
mod progress;

pub(super) use download::Downloads;

use super::{
    archive::{Ready, oci, ready},
    fault,
    job::{Job, Meter},
    layer::{Claim, Layers, whole_layer},
    manifest::{Layer, digest_of},
    staging::Staging,
    store::{Pin, Store},
};
use client::Registry;
use download::Wanted;
use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use std::{fs::File, io::BufReader, sync::Arc};
use yun_drivers::{DriverError, Result};
use yun_types::{Arch, Digest, Reference, RegistryPull};

/// Where the downloads end and the unpacking begins, in percent.
const FETCHED: u8 = 70;
/// The most that a manifest, an index or a config may take.
const LONGEST_JSON: u64 = 4 << 20;
/// What is asked for.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A layer of the image.
#[derive(Debug, Clone)]
struct Part {
    /// Its bytes as the registry has them.
    wanted: Wanted,
    /// Its tar.
    diff_id: Digest,
}

/// Fetches an image and makes it ready to appear. The downloads may go once it has.
pub(super) async fn pull(
    pull: &RegistryPull,
    store: &Store,
    downloads: &Downloads,
    staging: Arc<Staging>,
    job: &Job,
) -> Result<(Ready, download::Held)> {
    let reference = &pull.reference;
    job.work.report(None, format!("asking {} for {}", reference.registry(), reference.repository()));
    let registry = Registry::open(pull, job).await?;
    let manifest = chosen_manifest(&registry, reference, job).await?;
    let config = config(&registry, &manifest, job).await?;
    let parts = parts(&manifest, &config, reference)?;
    let total: u64 = parts.iter().map(|part| part.wanted.size).sum();
    if total > job.limits.max_image.0 {
        return Err(fault::too_large(format!(
            "the layers of {reference} take {}, and {} is the most that this node takes in",
            yun_types::Bytes(total).human(),
            job.limits.max_image.human()
        )));
    }
    // In the order of their names, so that two pulls that share layers never wait for each other in a circle.
    let held = downloads.hold(parts.iter().map(|part| part.wanted.digest.clone()).collect(), job).await?;
    let (whole, asked) = (store.clone(), parts.clone());
    let here = job.blocking(move |job| shared(&whole, &asked, job)).await?;
    let missing: Vec<Wanted> =
        parts.iter().zip(&here).filter(|(_, here)| here.is_none()).map(|(part, _)| part.wanted.clone()).collect();
    let count = here.iter().flatten().count();
    held.fetch(&registry, missing, count, job).await?;
    let (store, dir) = (store.clone(), downloads.clone());
    let made = job.blocking(move |job| take_in(&parts, here, &config, &store, &dir, &staging, job)).await?;
    Ok((made, held))
}

/// Those layers that the store has, whole.
fn shared(store: &Store, parts: &[Part], job: &Job) -> Result<Vec<Option<(Layer, Pin)>>> {
    let mut meter = Meter::new(job, "looking for layers that are here", (0, 0), None);
    parts.iter().map(|part| whole_layer(store, &part.diff_id, &mut meter, job)).collect()
}

fn take_in(
    parts: &[Part],
    here: Vec<Option<(Layer, Pin)>>,
    config: &ImageConfiguration,
    store: &Store,
    downloads: &Downloads,
    staging: &Staging,
    job: &Job,
) -> Result<Ready> {
    let total: u64 = parts.iter().zip(&here).filter(|(_, h)| h.is_none()).map(|(p, _)| p.wanted.size).sum();
    let mut meter = Meter::new(job, "unpacking", (FETCHED, 95), Some(total * 3));
    let mut layers = Layers::new(store, staging, job);
    for (part, here) in parts.iter().zip(here) {
        if let Some((layer, pin)) = here {
            layers.count_on(layer, pin);
            continue;
        }
        let claim = Claim {
            what: format!("the layer {}", part.wanted.digest.short()),
            blob: Some(part.wanted.digest.clone()),
            diff_id: Some(part.diff_id.clone()),
        };
        let file =
            File::open(downloads.whole(&part.wanted.digest)).map_err(|e| DriverError::io("read a download", e))?;
        layers.add(BufReader::with_capacity(1 << 17, file), &claim, &mut meter)?;
    }
    Ok(ready(layers, oci::config_of(config)))
}

/// The manifest of the image for this host.
async fn chosen_manifest(registry: &Registry, reference: &Reference, job: &Job) -> Result<ImageManifest> {
    let bytes = manifest_bytes(registry, &reference.version(), reference.digest(), job).await?;
    let Kind { schema_version, media_type, manifests, .. } = parse(&bytes, "manifest", reference)?;
    if schema_version != 2 {
        let message = format!(
            "cannot pull {reference}: its manifest is of schema {schema_version}, from before 2016; push it again with a present-day program"
        );
        return Err(fault::unknown_format(message));
    }
    let listed = matches!(
        media_type.as_deref(),
        Some("application/vnd.oci.image.index.v1+json" | "application/vnd.docker.distribution.manifest.list.v2+json")
    );
    if !listed && manifests.is_none() {
        return parse(&bytes, "manifest", reference);
    }
    let index: ImageIndex = parse(&bytes, "index", reference)?;
    let digest = choose(&index, reference)?;
    let bytes = manifest_bytes(registry, &digest.to_string(), Some(&digest), job).await?;
    parse(&bytes, "manifest", reference)
}

async fn manifest_bytes(registry: &Registry, version: &str, expected: Option<&Digest>, job: &Job) -> Result<Vec<u8>> {
    let (bytes, said) = registry.manifest(version, MANIFESTS, LONGEST_JSON, job).await?;
    let actual = digest_of(&bytes);
    if let Some(expected) = expected.or(said.as_ref()).filter(|expected| **expected != actual) {
        return Err(fault::checksum(&format!("the manifest that {} gives", registry.name()), expected, &actual));
    }
    Ok(bytes)
}

/// What kind of manifest it is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
}

/// The entry of an index that is made for this host.
fn choose(index: &ImageIndex, reference: &Reference) -> Result<Digest> {
    let platforms: Vec<_> = index.manifests().iter().filter_map(|d| d.platform().as_ref().map(|p| (p, d))).collect();
    let shown = |p: &oci_spec::image::Platform| {
        let variant = p.variant().as_ref().map(|v| format!("/{v}")).unwrap_or_default();
        format!("{}/{}{variant}", p.os(), p.architecture())
    };
    let (os, arch) = ("linux".to_owned(), Arch::host().to_string());
    let mut fitting: Vec<_> =
        platforms.iter().filter(|(p, _)| p.os().to_string() == os && p.architecture().to_string() == arch).collect();
    // The plainest first: a variant may ask for more than every processor of the kind has.
    fitting.sort_by_key(|(p, _)| p.variant().clone().filter(|v| v != "v8"));
    if let Some((_, descriptor)) = fitting.first() {
        return oci::digest(descriptor.digest().as_ref());
    }
    // One image that does not say for what it is made says it in its config.
    if let ([only], true) = (index.manifests().as_slice(), platforms.is_empty()) {
        return oci::digest(only.digest().as_ref());
    }
    let mut others: Vec<String> = platforms.iter().map(|(p, _)| shown(p)).filter(|p| p != "unknown/unknown").collect();
    others.dedup();
    let listed = if others.is_empty() { "nothing that says its platform".to_owned() } else { others.join(", ") };
    let message =
        format!("cannot pull {reference}: it has no image for {os}/{arch}, which this node is; it has {listed}");
    Err(DriverError::bad_request("WrongArchitecture", message))
}

async fn config(registry: &Registry, manifest: &ImageManifest, job: &Job) -> Result<ImageConfiguration> {
    let (descriptor, reference) = (manifest.config(), registry.reference());
    let digest = oci::digest(descriptor.digest().as_ref())?;
    if descriptor.size() > LONGEST_JSON {
        return Err(fault::damaged(format!("the config of {reference} is too long to be one")));
    }
    if !matches!(descriptor.media_type(), MediaType::ImageConfig)
        && descriptor.media_type().to_string() != "application/vnd.docker.container.image.v1+json"
    {
        let message = format!(
            "cannot pull {reference}: it is no image for containers but an artifact of type {}",
            fault::shown(descriptor.media_type().to_string().as_bytes())
        );
        return Err(fault::unknown_format(message));
    }
    let bytes = registry.small_blob(&digest, LONGEST_JSON, job).await?;
    let actual = digest_of(&bytes);
    if actual != digest {
        return Err(fault::checksum(&format!("the config that {} gives", registry.name()), &digest, &actual));
    }
    let config: ImageConfiguration = parse(&bytes, "config", reference)?;
    let platform = format!("{}/{}", config.os(), config.architecture());
    if platform != format!("linux/{}", Arch::host()) {
        return Err(fault::wrong_architecture(&platform));
    }
    Ok(config)
}

fn parts(manifest: &ImageManifest, config: &ImageConfiguration, reference: &Reference) -> Result<Vec<Part>> {
    let (layers, diff_ids) = (manifest.layers(), config.rootfs().diff_ids());
    if layers.len() != diff_ids.len() {
        return Err(fault::damaged(format!(
            "{reference} is inconsistent: its manifest has {} layers, its config {}; push it again",
            layers.len(),
            diff_ids.len()
        )));
    }
    if layers.is_empty() || layers.len() > oci::MOST_LAYERS {
        return Err(fault::unknown_format(format!(
            "{reference} has {} layers; from 1 to {} can be stacked",
            layers.len(),
            oci::MOST_LAYERS
        )));
    }
    let part = |(descriptor, diff_id): (&oci_spec::image::Descriptor, &String)| {
        oci::plain_layer(descriptor)?;
        let wanted = Wanted { digest: oci::digest(descriptor.digest().as_ref())?, size: descriptor.size() };
        Ok(Part { wanted, diff_id: oci::digest(diff_id)? })
    };
    layers.iter().zip(diff_ids).map(part).collect()
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str, reference: &Reference) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| fault::damaged(format!("the {what} of {reference} cannot be read: {e}; push it again")).with(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> ImageIndex {
        let manifests: Vec<_> = platforms
            .iter()
            .enumerate()
            .map(|(at, platform)| {
                let mut parts = platform.split('/');
                let mut platform = serde_json::json!({ "os": parts.next(), "architecture": parts.next() });
                if let Some(variant) = parts.next() {
                    platform["variant"] = variant.into();
                }
                let digest = format!("sha256:{}", at.to_string().repeat(64));
                serde_json::json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1, "platform": platform })
            })
            .collect();
        serde_json::from_value(serde_json::json!({ "schemaVersion": 2, "manifests": manifests })).unwrap()
    }

    #[test]
    fn the_plainest_image_for_this_host_is_chosen_and_others_are_named() {
        let reference: Reference = "localhost:1/web".parse().unwrap();
        let host = format!("linux/{}", Arch::host());
        let fancy = format!("{host}/v9");
        let chosen = choose(&index(&["linux/s390x", &fancy, &host, "unknown/unknown"]), &reference).unwrap();
        assert_eq!(chosen.hex(), "2".repeat(64));
        let error = choose(&index(&["linux/s390x", "linux/arm/v7", "unknown/unknown"]), &reference).unwrap_err();
        assert_eq!(error.reason, "WrongArchitecture");
        assert!(error.message.ends_with("it has linux/s390x, linux/arm/v7"), "{}", error.message);
    }
}
