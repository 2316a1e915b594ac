//! Cases about images: all or nothing, each content once, and nothing served that is not what its digest says.

use super::{Harness, dropped_after, must, refused, soon};
use crate::{ErrorKind, ExportRequest, ImageSource, ImportOptions};
use bytes::Bytes;
use futures::{StreamExt, stream};
use yun_engine::work::Followed;
use yun_types::Digest;

pub(super) async fn run(harness: &dyn Harness) {
    unknown_contents(harness).await;
    an_import_and_its_end(harness).await;
    a_wrong_checksum(harness).await;
    a_broken_upload(harness).await;
    an_import_that_nobody_wants(harness).await;
    imports_dropped_half_way(harness).await;
}

/// The bytes in pieces, as they come over a wire.
fn upload(bytes: &Bytes) -> ImageSource {
    let pieces: Vec<_> = bytes.chunks(64 << 10).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    ImageSource::Upload(stream::iter(pieces).boxed())
}

async fn digests(harness: &dyn Harness) -> Vec<Digest> {
    let list = must("image list", harness.kit().await.image.list().await);
    let mut digests: Vec<Digest> = list.into_iter().map(|facts| facts.digest).collect();
    digests.sort();
    digests
}

async fn unknown_contents(harness: &dyn Harness) {
    let images = harness.kit().await.image;
    let unknown = Digest::from_sha256([0xee; 32]);
    assert_eq!(refused("open of an unknown content", images.open(&unknown).await).kind, ErrorKind::NotFound);
    assert_eq!(refused("verify of an unknown content", images.verify(&unknown).await).kind, ErrorKind::NotFound);
    let export = images.export(&unknown, &ExportRequest::default(), &Followed::default()).await.err();
    assert_eq!(export.map(|e| e.kind), Some(ErrorKind::NotFound), "export of an unknown content");
    must("remove of an unknown content", images.remove(&unknown).await);
}

async fn an_import_and_its_end(harness: &dyn Harness) {
    let images = harness.kit().await.image;
    let before = digests(harness).await;
    let (bytes, options) = (harness.upload(), ImportOptions::default());
    let facts =
        must("import", soon(harness, "import", images.import(upload(&bytes), &options, &Followed::default())).await);
    assert_eq!(facts.kind, harness.kind(), "import: the kind follows from the bytes");
    let again = must(
        "second import",
        soon(harness, "second import", images.import(upload(&bytes), &options, &Followed::default())).await,
    );
    assert_eq!(again.digest, facts.digest, "import: the same content has the same name");

    // A new process has it too, once.
    let images = harness.kit().await.image;
    let now = digests(harness).await;
    assert_eq!(now.iter().filter(|digest| **digest == facts.digest).count(), 1, "list: each content once");
    let local = must("open", images.open(&facts.digest).await);
    assert_eq!((&local.digest, local.kind), (&facts.digest, facts.kind), "open");
    let request = ExportRequest { format: None, name: Some("copy".into()) };
    let wanted = Followed::default();
    let mut given = must("export", soon(harness, "export", images.export(&facts.digest, &request, &wanted)).await);
    let mut size = 0;
    while let Some(piece) = given.next().await {
        size += piece.expect("export: the stream is whole").len();
    }
    assert!(size > 0, "export: it gives something");
    must("verify", soon(harness, "verify", images.verify(&facts.digest)).await);

    must("remove", images.remove(&facts.digest).await);
    must("second remove", images.remove(&facts.digest).await);
    assert_eq!(refused("open after remove", images.open(&facts.digest).await).kind, ErrorKind::NotFound);
    assert_eq!(digests(harness).await, before, "remove: nothing is left, and nothing else is gone");
    must("open of the other content", images.open(&harness.image()).await);
}

async fn a_wrong_checksum(harness: &dyn Harness) {
    let before = digests(harness).await;
    let options = ImportOptions { checksum: Some(Digest::from_sha256([1; 32])), ..ImportOptions::default() };
    let images = harness.kit().await.image;
    let error = refused(
        "import with a wrong checksum",
        images.import(upload(&harness.upload()), &options, &Followed::default()).await,
    );
    assert!(
        matches!(error.kind, ErrorKind::Damaged | ErrorKind::BadRequest),
        "import with a wrong checksum: {error:?}"
    );
    assert_eq!(digests(harness).await, before, "import with a wrong checksum: nothing is kept");
}

async fn a_broken_upload(harness: &dyn Harness) {
    let before = digests(harness).await;
    let bytes = harness.upload();
    let half = bytes.slice(..bytes.len() / 2);
    let broken = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the sender went away");
    let source = ImageSource::Upload(stream::iter([Ok(half), Err(broken)]).boxed());
    refused(
        "import of a broken upload",
        harness.kit().await.image.import(source, &ImportOptions::default(), &Followed::default()).await,
    );
    assert_eq!(digests(harness).await, before, "import of a broken upload: nothing is kept");
}

async fn an_import_that_nobody_wants(harness: &dyn Harness) {
    let before = digests(harness).await;
    let work = Followed::default();
    work.cancel();
    let images = harness.kit().await.image;
    let options = ImportOptions::default();
    let import = images.import(upload(&harness.upload()), &options, &work);
    let error = refused("cancelled import", soon(harness, "cancelled import", import).await);
    assert_eq!(error.kind, ErrorKind::Cancelled, "cancelled import: {error}");
    assert_eq!(digests(harness).await, before, "cancelled import: nothing is kept");
}

async fn imports_dropped_half_way(harness: &dyn Harness) {
    let bytes = harness.upload();
    let before = digests(harness).await;
    // One driver all the way: what a dropped call still finishes in the background must not be in the way of the next call.
    let images = harness.kit().await.image;
    for polls in harness.drops() {
        let (options, work) = (ImportOptions::default(), Followed::default());
        drop(dropped_after(polls, images.import(upload(&bytes), &options, &work)).await);
        for facts in must("list after a dropped import", images.list().await) {
            must("open after a dropped import", images.open(&facts.digest).await);
        }
        let import = images.import(upload(&bytes), &options, &work);
        let facts = must("import after a dropped one", soon(harness, "import after a dropped one", import).await);
        must("verify after a dropped import", images.verify(&facts.digest).await);
        drop(dropped_after(polls, images.remove(&facts.digest)).await);
        must("remove after a dropped one", images.remove(&facts.digest).await);
        assert_eq!(digests(harness).await, before, "after {polls} polls");
    }
}
