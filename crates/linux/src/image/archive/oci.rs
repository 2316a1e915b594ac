//! Images as OCI and docker keep them: an index of manifests, a config, and layers. Every blob is checked against the hash that names it
//! (OCI image spec, "Image Layout", "Image Manifest", "Image Configuration").

use super::{Archive, LONGEST_JSON};
use crate::image::{
    fault,
    job::{Job, Meter},
    layer::{Claim, Layers},
    manifest::digest_of,
    spool::SPOOLED,
};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use std::collections::BTreeMap;
use yun_drivers::Result;
use yun_types::{Arch, ContainerConfig, Digest};

/// How deep indexes may be nested.
const DEEPEST: usize = 4;
/// The most layers that an image may have: what overlayfs stacks.
pub(in crate::image) const MOST_LAYERS: usize = 500;

/// A manifest of the archive with its config.
struct Candidate {
    config: ImageConfiguration,
    manifest: ImageManifest,
    /// What the index calls it.
    name: Option<String>,
}

/// Takes the image of an OCI layout in that is made for this host.
pub(super) fn layout(archive: &Archive, layers: &mut Layers<'_>, job: &Job) -> Result<ContainerConfig> {
    let index: ImageIndex = parse(&archive.json("index.json")?, "index.json")?;
    let mut seen = Vec::new();
    collect(archive, index.manifests(), DEEPEST, &mut seen)?;
    let chosen = choose(seen)?;
    let blobs: Vec<(String, Claim)> = chosen
        .manifest
        .layers()
        .iter()
        .map(|descriptor| {
            let name = blob_name(descriptor)?;
            plain_layer(descriptor)?;
            let blob = Some(digest(descriptor.digest().as_ref())?);
            Ok((name.clone(), Claim { what: format!("the layer {name}"), blob, diff_id: None }))
        })
        .collect::<Result<_>>()?;
    take_layers(archive, blobs, &chosen.config, layers, job)?;
    Ok(config_of(&chosen.config))
}

/// The image manifests below a list of descriptors; what is no image (signatures, attestations) is left out.
fn collect(archive: &Archive, descriptors: &[Descriptor], depth: usize, seen: &mut Vec<Candidate>) -> Result<()> {
    if depth == 0 || seen.len() > 1000 {
        return Err(fault::damaged("the archive's index is nested too deeply or names too many images"));
    }
    for descriptor in descriptors {
        let attestation =
            descriptor.annotations().as_ref().is_some_and(|a| a.contains_key("vnd.docker.reference.type"));
        if attestation || !archive.has(&blob_name(descriptor)?) && descriptors.len() > 1 {
            // A layout may name the images of other platforms without holding them.
            continue;
        }
        match descriptor.media_type() {
            MediaType::ImageIndex => collect_index(archive, descriptor, depth, seen)?,
            MediaType::Other(kind) if kind == "application/vnd.docker.distribution.manifest.list.v2+json" => {
                collect_index(archive, descriptor, depth, seen)?
            }
            _ => {
                let manifest: ImageManifest = parse(&blob(archive, descriptor)?, "an image manifest")?;
                // An artifact that is no image has another kind of config.
                let Ok(config) = parse(&blob(archive, manifest.config())?, "an image config") else { continue };
                let names = descriptor.annotations().as_ref();
                let name = names
                    .and_then(|a| {
                        a.get("org.opencontainers.image.ref.name").or_else(|| a.get("io.containerd.image.name"))
                    })
                    .cloned();
                seen.push(Candidate { config, manifest, name });
            }
        }
    }
    Ok(())
}

fn collect_index(archive: &Archive, descriptor: &Descriptor, depth: usize, seen: &mut Vec<Candidate>) -> Result<()> {
    let inner: ImageIndex = parse(&blob(archive, descriptor)?, "an image index")?;
    collect(archive, inner.manifests(), depth - 1, seen)
}

/// The one image for this host.
fn choose(seen: Vec<Candidate>) -> Result<Candidate> {
    let platform = |c: &Candidate| format!("{}/{}", c.config.os(), c.config.architecture());
    let wanted = format!("linux/{}", Arch::host());
    let others: Vec<String> = seen.iter().map(platform).collect();
    let mut fitting: Vec<Candidate> = seen.into_iter().filter(|c| platform(c) == wanted).collect();
    fitting.dedup_by(|a, b| a.manifest == b.manifest);
    match fitting.len() {
        1 => Ok(fitting.remove(0)),
        0 if others.is_empty() => {
            Err(fault::damaged("the archive's index names no image that the archive holds; save it again"))
        }
        0 => Err(fault::wrong_architecture(&others.join(", "))),
        several => {
            let names: Vec<&str> = fitting.iter().map(|c| c.name.as_deref().unwrap_or("without a name")).collect();
            Err(several_images(several, &names.join(", ")))
        }
    }
}

fn several_images(several: usize, names: &str) -> yun_drivers::DriverError {
    fault::unknown_format(format!(
        "the archive holds {several} images ({names}), and an import takes one; save the one that you mean alone"
    ))
}

/// An entry of the `manifest.json` that `docker save` writes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Takes the image of a docker archive in.
pub(super) fn docker(archive: &Archive, layers: &mut Layers<'_>, job: &Job) -> Result<ContainerConfig> {
    let mut saved: Vec<Saved> = parse(&archive.json("manifest.json")?, "manifest.json")?;
    if saved.len() > 1 {
        let names: Vec<String> = saved
            .iter()
            .map(|s| s.repo_tags.iter().flatten().next().cloned().unwrap_or_else(|| "without a name".into()))
            .collect();
        return Err(several_images(saved.len(), &names.join(", ")));
    }
    let Some(saved) = saved.pop() else {
        return Err(fault::damaged("the archive's manifest.json names no image; save it again"));
    };
    let bytes = archive.json(&saved.config)?;
    // The config's file name is its hash, `HEX.json` or `blobs/sha256/HEX`.
    let hash = saved.config.trim_end_matches(".json").rsplit('/').next().and_then(|hex| hex.parse::<Digest>().ok());
    if let Some(expected) = hash.filter(|h| *h != digest_of(&bytes)) {
        return Err(fault::checksum(&format!("the config {}", saved.config), &expected, &digest_of(&bytes)));
    }
    let config: ImageConfiguration = parse(&bytes, &saved.config)?;
    let platform = format!("{}/{}", config.os(), config.architecture());
    if platform != format!("linux/{}", Arch::host()) {
        return Err(fault::wrong_architecture(&platform));
    }
    let blobs = saved
        .layers
        .into_iter()
        .map(|name| (name.clone(), Claim { what: format!("the layer {name}"), ..Claim::default() }))
        .collect();
    take_layers(archive, blobs, &config, layers, job)?;
    Ok(config_of(&config))
}

/// Takes the layers in, lowest first, each against its diff id.
fn take_layers(
    archive: &Archive,
    blobs: Vec<(String, Claim)>,
    config: &ImageConfiguration,
    layers: &mut Layers<'_>,
    job: &Job,
) -> Result<()> {
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != blobs.len() {
        let message = format!(
            "the image is inconsistent: its manifest has {} layers, its config {}; save it again",
            blobs.len(),
            diff_ids.len()
        );
        return Err(fault::damaged(message));
    }
    if blobs.is_empty() || blobs.len() > MOST_LAYERS {
        return Err(fault::unknown_format(format!(
            "the image has {} layers; from 1 to {MOST_LAYERS} can be stacked",
            blobs.len()
        )));
    }
    let mut total = 0;
    for (name, _) in &blobs {
        total += archive.open(name)?.1;
    }
    // Each byte of an uncompressed layer is written once and read once more; of a compressed one, more.
    let mut meter = Meter::new(job, "unpacking", (SPOOLED, 95), Some(total * 3));
    let count = blobs.len();
    for (at, ((name, claim), diff_id)) in blobs.into_iter().zip(diff_ids).enumerate() {
        job.work.report(None, format!("unpacking layer {} of {count}", at + 1));
        let (reader, _) = archive.open(&name)?;
        let reader = std::io::BufReader::with_capacity(1 << 17, reader);
        layers.add(reader, &Claim { diff_id: Some(digest(diff_id)?), ..claim }, &mut meter)?;
    }
    Ok(())
}

/// A blob of the layout, checked against the hash that names it.
fn blob(archive: &Archive, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let name = blob_name(descriptor)?;
    if descriptor.size() > LONGEST_JSON {
        return Err(fault::damaged(format!("the archive's {name} is too long to be what it should be")));
    }
    let bytes = archive.json(&name)?;
    let (expected, actual) = (digest(descriptor.digest().as_ref())?, digest_of(&bytes));
    if expected != actual {
        return Err(fault::checksum(&format!("the blob {name}"), &expected, &actual));
    }
    Ok(bytes)
}

fn blob_name(descriptor: &Descriptor) -> Result<String> {
    Ok(format!("blobs/sha256/{}", digest(descriptor.digest().as_ref())?.hex()))
}

pub(in crate::image) fn digest(text: &str) -> Result<Digest> {
    let bad = || {
        fault::unknown_format(format!(
            "the image names a blob by {}; only sha256 is known here",
            fault::shown(text.as_bytes())
        ))
    };
    text.starts_with("sha256:").then(|| text.parse().ok()).flatten().ok_or_else(bad)
}

/// Refuses layers that are encrypted or kept elsewhere.
pub(in crate::image) fn plain_layer(descriptor: &Descriptor) -> Result<()> {
    let kind = descriptor.media_type().to_string();
    if kind.contains("encrypted") {
        return Err(fault::unknown_format(
            "the image's layers are encrypted; decrypt it first, for example with skopeo copy --decryption-key",
        ));
    }
    if kind.contains("foreign") && descriptor.urls().as_ref().is_some_and(|u| !u.is_empty()) {
        return Err(fault::unknown_format(
            "the image leaves a layer to be fetched from elsewhere; save it with all of its layers",
        ));
    }
    Ok(())
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| fault::damaged(format!("the archive's {what} cannot be read: {e}; save it again")).with(e))
}

/// The part of an image config that is used.
pub(in crate::image) fn config_of(config: &ImageConfiguration) -> ContainerConfig {
    let Some(process) = config.config() else { return ContainerConfig::default() };
    let some = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    ContainerConfig {
        entrypoint: process.entrypoint().clone().unwrap_or_default(),
        command: process.cmd().clone().unwrap_or_default(),
        env: process.env().clone().unwrap_or_default(),
        user: some(process.user()),
        workdir: some(process.working_dir()),
        stop_signal: some(process.stop_signal()),
        labels: process.labels().clone().map(BTreeMap::from_iter).unwrap_or_default(),
    }
}
