//! Trials for the doctor: whether this kernel can make what networks are made of.

use std::io;
use yun_drivers::Result;
use yun_types::CloudId;

use super::{
    netlink::{self, Batch},
    nft::Nft,
    sweep, tap,
};

/// Makes one of each kind of link in the calling thread's namespace, which should be one to throw away.
pub(crate) fn links() -> io::Result<()> {
    let mut batch = Batch::default();
    batch.add_bridge("ybtrial").set_link("ybtrial", |link| link.up());
    batch.run_here()?;
    let bridge = netlink::link("ybtrial")?.ok_or_else(|| io::Error::other("the bridge is gone"))?.index;
    let here = std::fs::File::open("/proc/thread-self/ns/net")?;
    let mut batch = Batch::default();
    batch.add_cable(
        "yvtrial",
        "eth0",
        bridge,
        1500,
        super::mac::Mac([2, 0, 0, 0, 0, 1]),
        std::os::fd::AsRawFd::as_raw_fd(&here),
    );
    batch.run_here()?;
    tap::create("yttrial").map_err(|e| io::Error::new(e.kind(), format!("cannot make a tap: {e}")))
}

/// Asks the kernel whether it knows everything that the rules say, without changing anything.
pub(crate) async fn packet_filter() -> Result<()> {
    sweep::can_filter(&Nft::default(), CloudId(uuid::Uuid::nil())).await
}
