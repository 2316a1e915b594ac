//! `docker load`: an archive of `docker save`, `skopeo` or `podman save` becomes an image of the catalogue.
//!
//! The archive goes to disk first, because its list of names may stand at its end; then it is sent on to the cloud, which checks all of it.

use super::super::{
    body::{Body, line, streamed},
    fault::{Answer, Fault},
    reference::{self, familiar},
    server::Ask,
};
use futures::stream;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::io::{self, Read, Seek, SeekFrom};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;
use yun_types::{Image, Reference};

/// The longest list of names.
const LONGEST_LIST: u64 = 1 << 20;
/// What the names of archives stand in, for both forms.
const LISTS: [&str; 2] = ["manifest.json", "index.json"];

/// Takes an archive in.
pub(crate) async fn load(mut ask: Ask) -> Answer<Response<Body>> {
    let spool = spool(&mut ask.body).await?;
    let read = spool.try_clone().map_err(|e| broken(&e))?;
    let names = tokio::task::spawn_blocking(move || names_in(read))
        .await
        .map_err(|e| Fault::broken(format!("cannot read the archive: {e}")))?
        .map_err(|e| {
            Fault::bad(format!("cannot read the archive: {e}: give what docker save or skopeo copy writes"))
        })?;
    let names = names.ok_or_else(|| {
        Fault::bad("the archive names no image: give what docker save or skopeo copy to docker-archive: writes, or use yun image import")
    })?;
    let first = names.first().ok_or_else(|| {
        Fault::bad(
            "the image in the archive has no name: give it one, as in skopeo copy … docker-archive:image.tar:NAME:TAG",
        )
    })?;
    let reference: Reference = first.parse().map_err(|e: yun_types::Invalid| Fault::bad(e.to_string()))?;
    if names.len() > 1 {
        return Err(Fault::unsupported(format!(
            "the archive holds several names ({}): save each image into an archive of its own",
            names.join(", ")
        )));
    }
    let image = take_in(&ask, &reference, spool).await?;
    let reference = familiar(&reference);
    tracing::debug!(reference, digest = %image.status.facts.digest, "loaded");
    let said = line(&json!({ "stream": format!("Loaded image: {reference}\n") }));
    Ok(streamed("application/json", stream::once(async move { Ok(said) })))
}

/// Sends the archive to the cloud. A name that is taken goes over to the new content, as Docker has it.
async fn take_in(ask: &Ask, reference: &Reference, spool: std::fs::File) -> Answer<Image> {
    let (client, project) = (&ask.cloud.client, &ask.cloud.project);
    let shown = familiar(reference);
    let name = reference::image_name(reference, &ask.cloud.images().await?);
    if let Ok(old) = ask.cloud.image(&shown).await {
        // What is used keeps its content; only the name can be taken from it.
        let request = client.image_delete().project(project.clone()).image(old.metadata.id.to_string());
        if let Err(error) = request.send().await {
            let fault = Fault::from(error);
            return Err(Fault::conflict(format!("{shown} is here already and in use: {}", fault.message)));
        }
    }
    let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(tokio::fs::File::from_std(spool), 256 << 10));
    let request =
        client.image_upload().project(project.clone()).name(name).source(reference::loaded(reference)).body(body);
    let operation = request.send().await?.into_inner();
    ask.cloud.finished(operation).await?;
    ask.cloud.image(&shown).await
}

fn broken(error: &io::Error) -> Fault {
    Fault::broken(format!("cannot keep the archive on disk: {error}: make room in the directory for temporary files"))
}

/// Writes the request's body into a file that has no name.
async fn spool(body: &mut Incoming) -> Answer<std::fs::File> {
    let file = tempfile::tempfile().map_err(|e| broken(&e))?;
    let mut writer = tokio::fs::File::from_std(file);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Fault::bad(format!("the archive ended too early: {e}")))?;
        if let Ok(bytes) = frame.into_data() {
            writer.write_all(&bytes).await.map_err(|e| broken(&e))?;
        }
    }
    writer.flush().await.map_err(|e| broken(&e))?;
    let mut file = writer.into_std().await;
    file.seek(SeekFrom::Start(0)).map_err(|e| broken(&e))?;
    Ok(file)
}

/// The names in an archive; `None` if it holds no list of them. Leaves the file at its beginning.
fn names_in(file: std::fs::File) -> io::Result<Option<Vec<String>>> {
    let mut file = io::BufReader::new(file);
    let mut magic = [0; 4];
    let read = file.read(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    let names = match magic[..read] {
        [0x1f, 0x8b, ..] => in_tar(flate2::read::GzDecoder::new(&mut file))?,
        [0x28, 0xb5, 0x2f, 0xfd] => in_tar(zstd::Decoder::with_buffer(&mut file)?)?,
        _ => in_tar(&mut file)?,
    };
    file.seek(SeekFrom::Start(0))?;
    Ok(names)
}

fn in_tar(reader: impl Read) -> io::Result<Option<Vec<String>>> {
    let (mut archive, mut found) = (tar::Archive::new(reader), None);
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        if !LISTS.contains(&path.as_str()) {
            continue;
        }
        let list: Value = serde_json::from_reader(entry.take(LONGEST_LIST))?;
        let names = if path == LISTS[0] { of_manifest(&list) } else { of_index(&list) };
        // The older form says more.
        if path == LISTS[0] {
            return Ok(Some(names));
        }
        found = Some(names);
    }
    Ok(found)
}

fn of_manifest(list: &Value) -> Vec<String> {
    let tags = list.as_array().into_iter().flatten().filter_map(|image| image["RepoTags"].as_array()).flatten();
    tags.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn of_index(index: &Value) -> Vec<String> {
    let manifests = index["manifests"].as_array().into_iter().flatten();
    let name = |manifest: &Value| {
        let annotations = &manifest["annotations"];
        let whole = annotations["io.containerd.image.name"].as_str();
        whole.or(annotations["org.opencontainers.image.ref.name"].as_str()).map(str::to_owned)
    };
    manifests.filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn names(bytes: &[u8]) -> Option<Vec<String>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        names_in(file).unwrap()
    }

    #[test]
    fn names_are_found_in_both_forms_and_through_compression() {
        let docker = archive(&[("x", "1"), ("manifest.json", r#"[{"RepoTags":["box:1"]}]"#)]);
        let oci = archive(&[(
            "index.json",
            r#"{"manifests":[{"annotations":{"org.opencontainers.image.ref.name":"box"}}]}"#,
        )]);
        assert_eq!(names(&docker).unwrap(), ["box:1"]);
        assert_eq!(names(&oci).unwrap(), ["box"]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&docker).unwrap();
        assert_eq!(names(&gzip.finish().unwrap()).unwrap(), ["box:1"]);
        assert_eq!(names(&archive(&[("etc/passwd", "")])), None);
    }
}
