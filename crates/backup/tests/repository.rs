//! The repository on a real directory: what is stored comes back, once; what is cut off, damaged or locked is said.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use std::{collections::HashSet, fs, io::Cursor, path::Path};
use yun_backup::{Added, Backup, BackupError, Progress, Repository, Stream, Target};

fn random(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

fn target(dir: &tempfile::TempDir) -> Target {
    dir.path().join("repo").display().to_string().parse().unwrap()
}

async fn store(repository: &Repository, bytes: Vec<u8>) -> (Stream, Added) {
    let mut known = repository.known().await.unwrap();
    repository.store("data", Cursor::new(bytes), &mut known, &Progress::default()).await.unwrap()
}

async fn back(repository: &Repository, stream: &Stream) -> Result<Vec<u8>, BackupError> {
    let pieces: Vec<bytes::Bytes> = repository.read(stream).try_collect().await?;
    Ok(pieces.concat())
}

fn backup(id: &str, stream: Stream) -> Backup {
    Backup {
        id: id.into(),
        created: DateTime::<Utc>::from_timestamp(1_800_000_000, 0).unwrap(),
        subject: "instance default/web".into(),
        series: "web".into(),
        host: "here".into(),
        added: 0,
        held_ms: 0,
        about: serde_json::json!({ "secret": "in the description" }),
        streams: vec![stream],
    }
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() { found.extend(files(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_comes_back_and_the_same_bytes_are_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    for password in [None, Some("word")] {
        let target: Target =
            dir.path().join(format!("repo-{}", password.is_some())).display().to_string().parse().unwrap();
        let repository = Repository::open(&target, password, true).await.unwrap();
        let first = random(12 << 20, 1);
        let (stream, added) = store(&repository, first.clone()).await;
        assert_eq!(stream.size, 12 << 20);
        assert!(added.bytes > 11 << 20, "{added:?}");
        assert_eq!(back(&repository, &stream).await.unwrap(), first);
        // Some bytes put in at the front and some changed in the middle cost the chunks around them.
        let mut second = [b"in front".to_vec(), first.clone()].concat();
        second[6 << 20] ^= 1;
        let (changed, added) = store(&repository, second.clone()).await;
        assert!(added.chunks <= 4 && added.bytes < 8 << 20, "{added:?}");
        assert_eq!(back(&repository, &changed).await.unwrap(), second);
        let (_, added) = store(&repository, second).await;
        assert_eq!(added, Added::default());
        let (empty, _) = store(&repository, Vec::new()).await;
        assert_eq!(back(&repository, &empty).await.unwrap(), b"");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_hides_everything_and_only_it_opens() {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::open(&target(&dir), Some("right"), true).await.unwrap();
    let (stream, _) = store(&repository, b"very private words ".repeat(10_000)).await;
    repository.record(&backup("b1", stream)).await.unwrap();
    for file in files(dir.path()) {
        let bytes = fs::read(&file).unwrap();
        for word in ["private words", "in the description", "default/web"] {
            assert!(!bytes.windows(word.len()).any(|w| w == word.as_bytes()), "{}", file.display());
        }
    }
    let wrong = Repository::open(&target(&dir), Some("wrong"), false).await.unwrap_err();
    assert!(matches!(wrong, BackupError::WrongPassword(_)), "{wrong}");
    assert!(matches!(Repository::open(&target(&dir), None, false).await.unwrap_err(), BackupError::PasswordNeeded(_)));
    let again = Repository::open(&target(&dir), Some("right"), false).await.unwrap();
    assert_eq!(again.find("web").await.unwrap().id, "b1");
    let absent = again.find("db").await.unwrap_err().to_string();
    assert!(absent.contains("backup db does not exist: the newest are b1"), "{absent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_cut_off_leaves_a_valid_repository_and_serves_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::open(&target(&dir), None, true).await.unwrap();
    let bytes = random(8 << 20, 2);
    // Chunks without a description: as after a kill.
    let (_, added) = store(&repository, bytes.clone()).await;
    assert!(added.chunks > 1);
    assert!(repository.backups().await.unwrap().is_empty());
    let (stream, added) = store(&repository, bytes).await;
    assert_eq!(added.chunks, 0, "what is there is stored again");
    repository.record(&backup("kept", stream)).await.unwrap();
    let (orphan, _) = store(&repository, random(3 << 20, 3)).await;
    let lock = repository.lock("prune").await.unwrap();
    let pruned = repository.prune(&lock).await.unwrap();
    assert_eq!(pruned.chunks, orphan.chunks.len() as u64);
    lock.release().await.unwrap();
    let verified = repository.verify(&repository.backups().await.unwrap()).await.unwrap();
    assert!(verified.damage.is_empty() && verified.bytes == 8 << 20, "{verified:?}");
    // A source that fails is told, and nothing is recorded.
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the disk made a noise"))
        }
    }
    let failed = repository.store("data", Broken, &mut HashSet::new(), &Progress::default()).await.unwrap_err();
    assert!(failed.to_string().contains("the disk made a noise"), "{failed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_named_with_the_backups_that_need_it() {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::open(&target(&dir), Some("word"), true).await.unwrap();
    let bytes = random(6 << 20, 4);
    let (stream, _) = store(&repository, bytes.clone()).await;
    repository.record(&backup("one", stream.clone())).await.unwrap();
    repository.record(&backup("two", stream.clone())).await.unwrap();
    let at = |place: usize| {
        dir.path().join("repo/chunks").join(&stream.chunks[place].id[..2]).join(&stream.chunks[place].id)
    };
    let mut changed = fs::read(at(0)).unwrap();
    changed[100] ^= 1;
    fs::write(at(0), &changed).unwrap();
    fs::remove_file(at(1)).unwrap();
    let verified = repository.verify(&repository.backups().await.unwrap()).await.unwrap();
    assert_eq!(verified.damage.len(), 2, "{verified:?}");
    for damage in &verified.damage {
        assert!(damage.message.contains(&damage.chunk[..12]) && damage.backups.len() == 2, "{damage:?}");
    }
    let error = back(&repository, &stream).await.unwrap_err().to_string();
    assert!(error.contains(&stream.chunks[0].id[..12]) && error.contains("was changed, or cut short"), "{error}");
    // The way out that is told works.
    fs::remove_file(at(0)).unwrap();
    let (again, added) = store(&repository, bytes.clone()).await;
    assert_eq!((added.chunks, back(&repository, &again).await.unwrap()), (2, bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_that_are_missing_or_cannot_be_written_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let absent = Repository::open(&target(&dir), None, false).await.unwrap_err().to_string();
    assert!(absent.contains("there is no backup repository") && absent.contains("yun backup create --to"), "{absent}");
    fs::write(dir.path().join("file"), "x").unwrap();
    for bad in [dir.path().join("file").display().to_string(), "/proc/nowhere".to_owned()] {
        let error = Repository::open(&bad.parse().unwrap(), None, true).await.unwrap_err().to_string();
        assert!(error.contains(&bad) && error.contains("can be made and written to"), "{error}");
    }
    let repository = Repository::open(&target(&dir), None, true).await.unwrap();
    let file = dir.path().join("repo/config");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("\"form\": 1", "\"form\": 9")).unwrap();
    let newer = Repository::open(&target(&dir), None, false).await.unwrap_err().to_string();
    assert!(newer.contains("upgrade yun"), "{newer}");
    drop(repository);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_writer_at_a_time_and_the_lock_of_the_dead_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::open(&target(&dir), None, true).await.unwrap();
    let file = dir.path().join("repo/lock");
    let held = |pid: u32, at: &str| {
        serde_json::json!({ "host": host(), "pid": pid, "what": "create", "at": at, "nonce": 7 }).to_string()
    };
    let host_now = Utc::now().to_rfc3339();
    // Process 1 lives.
    fs::write(&file, held(1, &host_now)).unwrap();
    let busy = repository.lock("create").await.unwrap_err().to_string();
    assert!(busy.contains("pid 1 on host") && busy.contains("lock"), "{busy}");
    // A pid that no process has.
    for gone in [held(0x3fff_fff0, &host_now), held(1, "2020-01-01T00:00:00Z")] {
        fs::write(&file, gone).unwrap();
        let lock = repository.lock("create").await.unwrap();
        lock.release().await.unwrap();
        assert!(!file.exists());
    }
}

fn host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned()
}
