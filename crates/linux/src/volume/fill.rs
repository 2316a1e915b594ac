//! Filling an empty volume with what an image has at the path where it is mounted, as container engines do.
//!
//! What a crash leaves half filled is marked by a file beside the data, and is filled again. A volume that holds anything else is left alone.

use std::{fs, io, ops::Range, os::unix::fs::MetadataExt, path::Path, process::Stdio};

/// Fills `data`, which is empty or was being filled, from the open directory `from`. Owners within `range` are those of a container's own
/// user namespace: on the disk they are counted from 0.
pub(crate) fn fill(data: &Path, from: &fs::File, range: Range<u32>) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let mark = data.with_file_name("filling");
    let begun = mark.exists();
    if !begun && fs::read_dir(data)?.next().is_some() {
        return Ok(());
    }
    fs::write(&mark, b"")?;
    // The descriptor names the directory whatever links lead there in the image's tree: nothing outside of it is read.
    let source = format!("/proc/{}/fd/{}/.", std::process::id(), from.as_raw_fd());
    let output = std::process::Command::new("cp")
        .args(["-a", "--reflink=auto", "-T", "--"])
        .arg(source)
        .arg(data)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(io::Error::other(format!("cp failed: {said}")));
    }
    if !range.is_empty() {
        shift(data, &range)?;
    }
    fs::remove_file(&mark)
}

fn shift(path: &Path, range: &Range<u32>) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let moved = |id: u32| range.contains(&id).then(|| id - range.start);
    let (user, group) = (moved(found.uid()), moved(found.gid()));
    if user.is_some() || group.is_some() {
        std::os::unix::fs::lchown(path, user, group)?;
    }
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            shift(&entry?.path(), range)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_empty_or_half_filled_is_filled() {
        let root = tempfile::tempdir().unwrap();
        let (image, data) = (root.path().join("image"), root.path().join("v/data"));
        fs::create_dir_all(image.join("sub")).unwrap();
        fs::write(image.join("sub/file"), "x").unwrap();
        fs::create_dir_all(&data).unwrap();
        let from = fs::File::open(&image).unwrap();
        fill(&data, &from, 0..0).unwrap();
        assert_eq!(fs::read_to_string(data.join("sub/file")).unwrap(), "x");
        assert!(!root.path().join("v/filling").exists());
        fs::remove_dir_all(data.join("sub")).unwrap();
        fs::write(data.join("mine"), "y").unwrap();
        fill(&data, &from, 0..0).unwrap();
        assert!(!data.join("sub").exists(), "it has content of its own");
        fs::write(root.path().join("v/filling"), "").unwrap();
        fill(&data, &from, 0..0).unwrap();
        assert!(data.join("sub/file").exists() && data.join("mine").exists(), "a crash came between");
    }
}
