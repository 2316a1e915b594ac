//! Disks of VMs. A stranger's qcow2 header can name files of the host (a backing file, a data file): it is read here, before any program
//! is let near it, and only then checked with `qemu-img`. Plain disks become qcow2, which keeps no zeros.

use super::{
    codec::Codec,
    fault,
    job::{Job, Meter},
    manifest::{Blob, Manifest},
    sniff::Content,
    spool::{SPOOLED, Spooled},
    staging::Staging,
    store::Draft,
    tool::Tool,
    tree::hash_file,
};
use serde::Deserialize;
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use yun_drivers::{DriverError, Result};
use yun_types::{Bytes, VmBoot};

/// Checking reads the tables only; converting writes all of it.
const CHECK: Duration = Duration::from_secs(300);
const CONVERT: Duration = Duration::from_secs(4 * 3600);

pub(super) fn qemu_img(limit: Duration) -> Tool {
    Tool::new("qemu-img", "qemu-utils", limit)
}

/// The fields of a qcow2 header that decide whether it may be used (QEMU, docs/interop/qcow2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Qcow2Header {
    pub(super) virtual_size: Bytes,
}

const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

impl Qcow2Header {
    /// Reads a header and refuses what reaches for other files or states absurd sizes.
    pub(super) fn parse(head: &[u8], most: Bytes) -> Result<Self> {
        let truncated = || fault::damaged("the qcow2 disk is truncated: it ends in its header; fetch it again");
        let u32_at = |at: usize| {
            head.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes).ok_or_else(truncated)
        };
        let u64_at = |at: usize| {
            head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes).ok_or_else(truncated)
        };
        let version = u32_at(4)?;
        if !matches!(version, 2 | 3) {
            return Err(fault::unknown_format(format!(
                "the qcow2 disk has version {version}; versions 2 and 3 are known here"
            )));
        }
        if u64_at(8)? != 0 {
            let way_out = "make it whole first with qemu-img convert -O qcow2 DISK WHOLE, and import that";
            return Err(DriverError::bad_request(
                "DiskHasBackingFile",
                format!(
                    "the qcow2 disk is only the difference to a backing file, which would be read from this node; {way_out}"
                ),
            ));
        }
        if !(9..=21).contains(&u32_at(20)?) {
            return Err(fault::damaged("the qcow2 disk is damaged: its cluster size is impossible"));
        }
        let virtual_size = Bytes(u64_at(24)?);
        if virtual_size.0 == 0 {
            return Err(fault::damaged("the qcow2 disk is empty: its size is 0"));
        }
        if virtual_size > most {
            return Err(fault::too_large(format!(
                "the disk is {} large inside; this node takes none larger than {}",
                virtual_size.human(),
                most.human()
            )));
        }
        if u32_at(32)? != 0 {
            return Err(DriverError::bad_request(
                "DiskEncrypted",
                "the qcow2 disk is encrypted; decrypt it first with qemu-img convert",
            ));
        }
        if version == 3 {
            Self::features(u64_at(72)?)?;
        }
        let header_length = if version == 3 { u32_at(100)? } else { 72 };
        Self::extensions(head, usize::try_from(header_length).unwrap_or(usize::MAX))?;
        Ok(Self { virtual_size })
    }

    fn features(incompatible: u64) -> Result<()> {
        if incompatible & INCOMPATIBLE_DATA_FILE != 0 {
            return Err(data_file());
        }
        if incompatible & INCOMPATIBLE_CORRUPT != 0 {
            return Err(fault::damaged(
                "the qcow2 disk is marked as corrupt; repair it first with qemu-img check -r all",
            ));
        }
        let known = INCOMPATIBLE_DIRTY | INCOMPATIBLE_COMPRESSION | INCOMPATIBLE_EXTENDED_L2;
        if incompatible & !known != 0 {
            return Err(fault::unknown_format(
                "the qcow2 disk uses features that are not known here; convert it first with qemu-img convert -O qcow2",
            ));
        }
        Ok(())
    }

    fn extensions(head: &[u8], mut at: usize) -> Result<()> {
        for _ in 0..64 {
            let Some(kind) = head.get(at..at.saturating_add(4)).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes)
            else {
                return Ok(());
            };
            let Some(length) = head.get(at + 4..at + 8).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes) else {
                return Ok(());
            };
            match kind {
                0 => return Ok(()),
                EXTENSION_DATA_FILE => return Err(data_file()),
                _ => {
                    at = at.saturating_add(8 + usize::try_from(length).unwrap_or(usize::MAX).saturating_add(7) / 8 * 8)
                }
            }
        }
        Ok(())
    }
}

fn data_file() -> DriverError {
    let message = "the qcow2 disk keeps its contents in another file, which would be read from this node; make it whole first with qemu-img convert";
    DriverError::bad_request("DiskHasDataFile", message)
}

/// What `qemu-img info` prints, as far as it is looked at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    backing_filename: Option<String>,
}

/// A disk in staging, ready to be kept.
#[derive(Debug)]
pub(super) struct StagedDisk {
    pub(super) path: PathBuf,
    pub(super) virtual_size: Bytes,
}

/// Checks a qcow2 from a stranger.
async fn check_qcow2(path: &Path, job: &Job) -> Result<StagedDisk> {
    let owned = path.to_owned();
    let head = job
        .blocking(move |_| {
            let mut head = vec![];
            File::open(owned)
                .and_then(|f| f.take(1 << 16).read_to_end(&mut head))
                .map_err(|e| DriverError::io("read the disk", e))?;
            Ok(head)
        })
        .await?;
    let header = Qcow2Header::parse(&head, job.limits.max_disk)?;
    job.work.report(Some(SPOOLED), "checking the disk");
    let info = qemu_img(CHECK).args(["info", "--output=json", "-f", "qcow2"]).arg(path).end(job, |_| {}).await?;
    if info.code != 0 {
        return Err(fault::damaged(format!("the qcow2 disk is damaged: {}", complaint(&info.err, path))));
    }
    let info: Info = serde_json::from_str(&info.out)
        .map_err(|e| fault::damaged("the qcow2 disk cannot be described by qemu-img").with(e))?;
    if info.backing_filename.is_some() || info.virtual_size != header.virtual_size.0 {
        return Err(fault::damaged(
            "the qcow2 disk describes itself in two ways; convert it first with qemu-img convert -O qcow2",
        ));
    }
    let check = qemu_img(CHECK).args(["check", "-f", "qcow2"]).arg(path).end(job, |_| {}).await?;
    // 3 is clusters that nothing uses: wasteful, not harmful.
    if !matches!(check.code, 0 | 3) {
        let said = if check.err.trim().is_empty() { &check.out } else { &check.err };
        return Err(fault::damaged(format!("the qcow2 disk is damaged: {}; fetch it again", complaint(said, path))));
    }
    let owned = path.to_owned();
    job.blocking(move |job| within_file(&head, &owned, job)).await?;
    Ok(StagedDisk { path: path.to_owned(), virtual_size: header.virtual_size })
}

/// The first lines of a complaint, without this node's paths.
fn complaint(text: &str, path: &Path) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).take(3).collect();
    lines.join("; ").replace(&path.display().to_string(), "the disk").replace("qemu-img: ", "")
}

/// `qemu-img check` reads the tables and not the data: a file that was cut behind its tables passes it. The tables that lie last, as far as
/// the header names them, must be inside; so must every cluster of data.
fn within_file(head: &[u8], path: &Path, job: &Job) -> Result<()> {
    let failed = |e| DriverError::io("read the disk", e);
    let field = |at: usize| head.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
    let short = |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
    let cluster = 1u64 << short(20).clamp(9, 21);
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let truncated =
        || fault::damaged("the qcow2 disk is truncated: clusters lie behind the end of the file; fetch it again");
    let entry = if field(72) & INCOMPATIBLE_EXTENDED_L2 != 0 && short(4) == 3 { 16 } else { 8 };
    let tables = read_table(&mut file, field(40), u64::from(short(36)).saturating_mul(8))
        .map_err(failed)?
        .ok_or_else(truncated)?;
    for table in tables.chunks_exact(8).map(offset_of).filter(|t| *t != 0) {
        job.check()?;
        let entries = read_table(&mut file, table, cluster).map_err(failed)?.ok_or_else(truncated)?;
        for raw in entries.chunks_exact(entry) {
            let compressed = raw[0] & 0x40 != 0;
            let offset = offset_of(&raw[..8]);
            // A last cluster may be shorter than a cluster: it begins inside. Compressed ones were read by the check.
            if !compressed && offset != 0 && offset >= length {
                return Err(truncated());
            }
        }
    }
    Ok(())
}

/// The offset in an entry of a table: bits 9 to 55.
fn offset_of(raw: &[u8]) -> u64 {
    raw.try_into().map_or(0, u64::from_be_bytes) & 0x00ff_ffff_ffff_fe00
}

/// Reads a table; nothing if it lies behind the end.
fn read_table(file: &mut File, offset: u64, length: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut table = vec![];
    file.seek(SeekFrom::Start(offset))?;
    file.take(length).read_to_end(&mut table)?;
    Ok((table.len() as u64 == length).then_some(table))
}

/// Makes a qcow2 of a plain disk.
pub(super) async fn to_qcow2(raw: &Path, staging: &Staging, job: &Job, span: (u8, u8)) -> Result<StagedDisk> {
    let meta = tokio::fs::metadata(raw).await.map_err(|e| DriverError::io("read the disk", e))?;
    let virtual_size = Bytes(meta.len().next_multiple_of(512));
    if virtual_size > job.limits.max_disk {
        return Err(fault::too_large(format!(
            "the disk is {} large; this node takes none larger than {}",
            virtual_size.human(),
            job.limits.max_disk.human()
        )));
    }
    let path = staging.join("disk.qcow2");
    let followed = job.clone();
    let tool = qemu_img(CONVERT).args(["convert", "-p", "-f", "raw", "-O", "qcow2"]).arg(raw).arg(&path);
    tool.follow(job, move |line| {
        let percent = line.trim().strip_prefix('(').and_then(|l| l.split('.').next()?.parse::<u8>().ok());
        if let Some(percent) = percent {
            let whole =
                span.0 + u8::try_from(u16::from(span.1 - span.0) * u16::from(percent.min(100)) / 100).unwrap_or(0);
            followed.work.report(Some(whole), format!("converting the disk: {percent}%"));
        }
    })
    .await?;
    Ok(StagedDisk { path, virtual_size })
}

/// Decompresses a disk; zeros become holes.
fn decompress(spooled: &Spooled, staging: &Staging, job: &Job) -> Result<PathBuf> {
    const BLOCK: usize = 1 << 16;
    let failed = |e| DriverError::io("decompress the disk", e);
    let path = staging.join("decompressed");
    let source = File::open(&spooled.path).map_err(failed)?;
    let mut reader = Codec::of(&spooled.head)
        .open(std::io::BufReader::with_capacity(1 << 17, source))
        .map_err(|e| fault::reading("the disk", e))?;
    let mut out = File::create(&path).map_err(failed)?;
    let mut meter = Meter::new(job, "decompressing the disk", (SPOOLED, SPOOLED), None);
    let (mut block, mut size, mut kept) = (vec![0; BLOCK], 0u64, 0u64);
    loop {
        let mut filled = 0;
        while filled < BLOCK {
            match reader.read(&mut block[filled..]).map_err(|e| fault::reading("the disk", e))? {
                0 => break,
                read => filled += read,
            }
        }
        if filled == 0 {
            out.set_len(size).map_err(failed)?;
            return Ok(path);
        }
        size += filled as u64;
        if size > job.limits.max_disk.0 {
            return Err(fault::too_large(format!(
                "the disk decompresses to more than {}",
                job.limits.max_disk.human()
            )));
        }
        if block[..filled].iter().all(|b| *b == 0) {
            out.seek_relative_forward(filled).map_err(failed)?;
        } else {
            kept += filled as u64;
            if kept % (64 << 20) < BLOCK as u64 {
                job.room(staging.path(), 0, "decompress the disk")?;
            }
            out.write_all(&block[..filled]).map_err(failed)?;
        }
        meter.add(filled)?;
    }
}

/// Leaves a hole.
trait Hole {
    fn seek_relative_forward(&mut self, bytes: usize) -> std::io::Result<()>;
}

impl Hole for File {
    fn seek_relative_forward(&mut self, bytes: usize) -> std::io::Result<()> {
        self.seek(SeekFrom::Current(i64::try_from(bytes).unwrap_or(0))).map(drop)
    }
}

/// The first bytes inside a compressed stream.
pub(super) fn inner_head(spooled: &Spooled) -> Result<Vec<u8>> {
    let source = File::open(&spooled.path).map_err(|e| DriverError::io("read the image", e))?;
    let reader =
        Codec::of(&spooled.head).open(std::io::BufReader::new(source)).map_err(|e| fault::reading("the image", e))?;
    let mut head = vec![];
    reader.take(super::sniff::HEAD as u64).read_to_end(&mut head).map_err(|e| fault::reading("the image", e))?;
    Ok(head)
}

/// Takes a disk in: `content` says what it is once it is decompressed.
pub(super) async fn take_in(
    spooled: &Spooled,
    content: Content,
    staging: std::sync::Arc<Staging>,
    job: &Job,
) -> Result<Draft> {
    let mut path = spooled.path.clone();
    if Codec::of(&spooled.head) != Codec::Plain {
        let (spooled, staging) = (spooled.clone(), staging.clone());
        path = job.blocking(move |job| decompress(&spooled, &staging, job)).await?;
    }
    let disk = match content {
        Content::Qcow2 => check_qcow2(&path, job).await?,
        _ => to_qcow2(&path, &staging, job, (SPOOLED, 90)).await?,
    };
    let mut manifest = Manifest::vm(VmBoot::Disk, disk.virtual_size, None);
    let (blob, staged) = keep(disk.path, job, staging, (90, 97)).await?;
    manifest.disk = Some(blob.clone());
    Ok(Draft { manifest, blobs: vec![(staged, blob.digest)], layers: vec![] })
}

/// Hashes a staged file and makes it read-only, ready to be kept as a blob.
pub(super) async fn keep(
    path: PathBuf,
    job: &Job,
    staging: std::sync::Arc<Staging>,
    span: (u8, u8),
) -> Result<(Blob, PathBuf)> {
    job.blocking(move |job| {
        let _staging = staging;
        let failed = |e| DriverError::io(format!("read {}", path.display()), e);
        let size = std::fs::metadata(&path).map_err(failed)?.len();
        let mut meter = Meter::new(job, "hashing", span, Some(size));
        let digest = hash_file(&path, &mut meter)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o444)).map_err(failed)?;
        Ok((Blob { digest, size }, path))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(change: impl FnOnce(&mut Vec<u8>)) -> Result<Qcow2Header> {
        let mut head = vec![0; 512];
        head[..4].copy_from_slice(b"QFI\xfb");
        head[4..8].copy_from_slice(&3u32.to_be_bytes());
        head[20..24].copy_from_slice(&16u32.to_be_bytes());
        head[24..32].copy_from_slice(&(1u64 << 30).to_be_bytes());
        head[100..104].copy_from_slice(&104u32.to_be_bytes());
        change(&mut head);
        Qcow2Header::parse(&head, Bytes::gib(100))
    }

    #[test]
    fn a_plain_header_passes() {
        assert_eq!(header(|_| {}).unwrap().virtual_size, Bytes::gib(1));
    }

    #[test]
    fn headers_that_reach_for_other_files_are_refused() {
        assert_eq!(header(|h| h[15] = 1).unwrap_err().reason, "DiskHasBackingFile");
        assert_eq!(header(|h| h[79] = 4).unwrap_err().reason, "DiskHasDataFile");
        assert_eq!(
            header(|h| h[104..108].copy_from_slice(&EXTENSION_DATA_FILE.to_be_bytes())).unwrap_err().reason,
            "DiskHasDataFile"
        );
        let behind_another = |h: &mut Vec<u8>| {
            h[104..108].copy_from_slice(&0xe279_2acau32.to_be_bytes());
            h[108..112].copy_from_slice(&5u32.to_be_bytes());
            h[120..124].copy_from_slice(&EXTENSION_DATA_FILE.to_be_bytes());
        };
        assert_eq!(header(behind_another).unwrap_err().reason, "DiskHasDataFile");
    }

    #[test]
    fn absurd_headers_are_refused() {
        assert_eq!(header(|h| h[24] = 0x7f).unwrap_err().reason, "ImageTooLarge");
        assert_eq!(header(|h| h[23] = 40).unwrap_err().reason, "ImageDamaged");
        assert_eq!(header(|h| h[35] = 1).unwrap_err().reason, "DiskEncrypted");
        assert_eq!(header(|h| h[79] = 2).unwrap_err().reason, "ImageDamaged");
        assert_eq!(header(|h| h.truncate(40)).unwrap_err().reason, "ImageDamaged");
        assert_eq!(header(|h| h[7] = 9).unwrap_err().reason, "UnknownFormat");
    }
}
