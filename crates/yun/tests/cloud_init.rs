//! The official way of cloud images: a Debian with the real cloud-init reads what yun gives it (NoCloud), at the command line of the real
//! program. Takes a few minutes where VMs are emulated.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::Cloud;
use std::path::Path;

const USER_DATA: &str = "#cloud-config
write_files:
  - path: /root/written
    content: by cloud-init
runcmd:
  - echo ran > /root/ran
";

#[test]
fn a_debian_with_the_real_cloud_init_takes_its_settings() {
    if !common::real_vms("the real cloud-init") {
        return;
    }
    if !Path::new("/usr/bin/mmdebstrap").exists() {
        eprintln!("SKIPPED the real cloud-init: mmdebstrap is not installed (cargo xtask setup installs it)");
        return;
    }
    let cloud = Cloud::start();
    let (_, why) = cloud.fails(&["image", "build", "small-vm", "x", "--cloud-init"]);
    assert!(why.contains("--cloud-init is for debian-vm"), "{why}");
    cloud.ok(&["image", "build", "debian-vm", "deb", "--cloud-init"]);
    let file = cloud.root().join("user-data");
    std::fs::write(&file, USER_DATA).unwrap();
    let (size, file) = ("cpu:1,memory:768Mi,disk:4Gi", file.display().to_string());
    cloud.ok(&["launch", "deb", "web", "--size", size, "--user-data", &file, "--boot-timeout", "900", "--wait", "900"]);
    let inside = |script: &str| cloud.ok(&["ssh", "web", "--wait", "900", "--", script]);
    let status = inside("cloud-init status --wait --long || true");
    assert!(status.contains("done") && status.contains("DataSourceNoCloud"), "{status}");
    assert_eq!(inside("hostname; cat /root/written; echo; cat /root/ran"), "web\nby cloud-init\nran\n");
    let room: u64 = inside("df --output=size -k / | tail -n 1").trim().parse().unwrap();
    assert!(room > 3 << 20, "the file system fills the disk: {room} KiB");
}
