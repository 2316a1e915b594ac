//! Tells the kernel's own file systems from those that hold files. Decides nothing.

use nix::sys::statfs::fstatfs;
use std::{io, os::fd::OwnedFd};

/// File systems that the kernel makes up: reading and writing there asks the kernel for something, with the rights of whoever opened the
/// file. The numbers are those of statfs(2).
const KINDS: &[i64] = &[
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0xcafe_4a11, // bpf
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinuxfs
    0x6265_6570, // configfs
    0xde5e_81e4, // efivarfs
    0x6165_676c, // pstore
    0x6e73_6673, // nsfs
    0x1980_0202, // mqueue
    0x4249_4e4d, // binfmt_misc
    0x1cd1,      // devpts
];

/// True for what is no file, but a way to ask the kernel for something.
pub(super) fn is_made_up(found: &OwnedFd) -> io::Result<bool> {
    Ok(KINDS.contains(&fstatfs(found)?.filesystem_type().0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn the_kernels_files_are_told_from_others() {
        let is = |path: &str| is_made_up(&File::open(path).unwrap().into()).unwrap();
        assert!(is("/proc/version") && is("/proc") && is("/sys/class"));
        assert!(!is("/") && !is("/etc/passwd"));
    }
}
