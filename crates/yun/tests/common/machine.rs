//! A small VM to try things on.

use super::{Cloud, text};

/// The size of `vm1`.
pub const SIZE: &str = "cpu:0.5,memory:192Mi,disk:256Mi";
/// Says which life of the guest this is.
pub const BOOT: &str = "cat /proc/sys/kernel/random/boot_id";

/// Runs a command inside by SSH; what it printed, or what went wrong.
pub fn inside(cloud: &Cloud, name: &str, command: &str) -> Result<String, String> {
    let output = cloud.run(&["ssh", name, "--wait", "90", "--", command]);
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A cloud with the running VM `vm1`, which has a file.
pub fn with_machine() -> Cloud {
    let cloud = Cloud::start();
    cloud.ok(&["image", "build", "small-vm", "small"]);
    cloud.ok(&["launch", "small", "vm1", "--size", SIZE]);
    inside(&cloud, "vm1", "echo one > /root/file && sync").unwrap();
    cloud
}

/// Takes the cloud down; nothing may be left.
#[track_caller]
pub fn end(cloud: Cloud) {
    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}
