//! Pulling from a registry that says nothing, or next to nothing: bounded in time, said, and gone on with.

use crate::{
    node::{Node, rootfs},
    registry::{Blob, Hostile, Spec},
};
use std::time::Duration;
use yun_drivers::{DriverError, ErrorKind, ImageDriver, ImageSource, ImportOptions};
use yun_engine::work::Followed;
use yun_linux::image::ImageLimits;
use yun_types::{Bytes, ImageFacts, RegistryPull};

async fn pull(node: &Node, hostile: &Hostile, work: &Followed) -> Result<ImageFacts, DriverError> {
    let pull = RegistryPull { reference: hostile.name("web").parse().unwrap(), credentials: None, insecure: false };
    node.images.import(ImageSource::Registry(Box::new(pull)), &ImportOptions::default(), work).await
}

fn limited() -> Node {
    Node::limited(ImageLimits { stall: Duration::from_millis(400), ..ImageLimits::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_stalls_or_trickles_is_given_up_and_the_next_pull_goes_on() {
    let node = limited();
    let hostile = Hostile::start(&rootfs());
    let work = Followed::default();
    for blob in [Blob::Stalls, Blob::Trickles] {
        hostile.will(blob);
        let error = pull(&node, &hostile, &work).await.unwrap_err();
        assert_eq!((error.kind, error.reason), (ErrorKind::Timeout, "RegistryStalled"), "{blob:?}: {error}");
        assert!(error.message.contains("next to nothing for 0.4s"), "{error}");
    }
    hostile.spec(Spec::Silent);
    assert_eq!(pull(&node, &hostile, &work).await.unwrap_err().reason, "RegistryStalled");
    hostile.spec(Spec::Right);
    hostile.will(Blob::Whole);
    let facts = pull(&node, &hostile, &work).await.unwrap();
    assert!(hostile.ranges()[0] > 0, "what trickled in was fetched again: {:?}", hostile.ranges());
    node.images.verify(&facts.digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_is_taken_back_at_once() {
    let node = Node::new();
    let hostile = Hostile::start(&rootfs());
    hostile.will(Blob::Stalls);
    let work = Followed::default();
    let taken_back = async {
        let mut progress = work.progress();
        progress.wait_for(|p| p.message.contains("of 1 layers")).await.unwrap();
        work.cancel();
    };
    let (error, ()) = tokio::join!(pull(&node, &hostile, &work), taken_back);
    assert_eq!(error.unwrap_err().kind, ErrorKind::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_too_large_or_finds_no_room_is_refused_before_its_layers_come() {
    let hostile = Hostile::start(&rootfs());
    let work = Followed::default();
    let node = Node::limited(ImageLimits { max_image: Bytes(100), ..ImageLimits::default() });
    assert_eq!(pull(&node, &hostile, &work).await.unwrap_err().reason, "ImageTooLarge");
    let node = Node::limited(ImageLimits { keep_free: Bytes::gib(1 << 20), ..ImageLimits::default() });
    let error = pull(&node, &hostile, &work).await.unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::NoSpace, "DiskFull"));
    assert_eq!(hostile.ranges(), Vec::<usize>::new());
    assert_eq!(node.parts(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pulls_of_one_image_fetch_its_layers_once() {
    let node = Node::new();
    let hostile = Hostile::start(&rootfs());
    let (one, two) = (Followed::default(), Followed::default());
    let (one, two) = tokio::join!(pull(&node, &hostile, &one), pull(&node, &hostile, &two));
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(hostile.ranges().len(), 1, "{:?}", hostile.ranges());
}
