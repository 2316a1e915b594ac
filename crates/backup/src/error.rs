//! What can go wrong with backups: the operation, the object, and the way out.

/// Why a backup could not be written, read or proved.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The target's address is none.
    #[error(
        "backup target {0:?} is not usable: write a directory, as in /srv/backup, or a bucket, as in s3://bucket/prefix"
    )]
    BadTarget(String),
    /// The target does not answer, or refuses.
    #[error("cannot {operation} the backup target {target}: {why}; {hint}")]
    Target {
        /// `read`, `write`, `list`.
        operation: &'static str,
        /// Where.
        target: String,
        /// What the system or the server said.
        why: String,
        /// What helps.
        hint: &'static str,
    },
    /// No repository is there.
    #[error("there is no backup repository at {0}: make one with yun backup create --to {0}, or correct the target")]
    NoRepository(String),
    /// A newer program made it.
    #[error("the backup repository at {target} has form {found}, this program knows {known}: upgrade yun")]
    Newer {
        /// Where.
        target: String,
        /// Its form.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The password does not open it.
    #[error(
        "the password does not open the backup repository at {0}: give the one that it was made with (--password-file)"
    )]
    WrongPassword(String),
    /// It needs a password.
    #[error(
        "the backup repository at {0} is locked by a password: give it with --password-file FILE, or YUN_BACKUP_PASSWORD_FILE"
    )]
    PasswordNeeded(String),
    /// It has no password.
    #[error(
        "the backup repository at {0} has no password, and one was given: leave it out, or make another repository"
    )]
    NoPassword(String),
    /// Somebody else writes.
    #[error(
        "{who} works on the backup repository at {target} since {since}: wait for it, or remove {object} if nobody does"
    )]
    Locked {
        /// Where.
        target: String,
        /// `pid 7 on host vm (create)`.
        who: String,
        /// When it last said so.
        since: String,
        /// The lock's object.
        object: String,
    },
    /// No such backup.
    #[error("backup {id} does not exist{near}")]
    NotFound {
        /// What was asked for.
        id: String,
        /// What there is.
        near: String,
    },
    /// A part of the repository is not what it should be.
    #[error("{object} of the backup repository at {target} is damaged: {why}; {hint}")]
    Damaged {
        /// `chunk 0123… (chunks/01/0123…)`.
        object: String,
        /// Where.
        target: String,
        /// What is wrong.
        why: String,
        /// What helps.
        hint: &'static str,
    },
    /// What should be stored could not be read.
    #[error("cannot read {what}: {source}")]
    Source {
        /// Which stream.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A part of this program ended.
    #[error("the work on the backup was cut off: {0}; run it again, what is stored already is not stored again")]
    CutOff(String),
}

/// What this crate answers.
pub type Result<T, E = BackupError> = std::result::Result<T, E>;
