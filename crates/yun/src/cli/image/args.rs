//! The words of `yun image`.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use yun_types::{ExportFormat, ImageFormat, Name, RecipeBase, Reference};

use crate::cli::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List images
    Ls,
    /// Show an image in full
    Show {
        /// Its name, or the start of its digest
        #[arg(add = ArgValueCompleter::new(complete::images))]
        image: String,
    },
    /// Make an image from Debian packages
    #[command(
        after_help = "Examples:\n  yun image build small-vm small\n  yun image build debian-vm deb12 --suite bookworm\n  yun image build debian-vm deb13 --release trixie --cloud-init\n  yun image build debian web --packages nginx-light -- nginx -g 'daemon off;'"
    )]
    Build(BuildArgs),
    /// Take an image in: a file, a URL, or - for standard input
    #[command(
        after_help = "Examples:\n  yun image import deb13 debian-13-generic-amd64.qcow2 --checksum sha256:...\n  yun image import app app-oci.tar --format oci-layout\n  skopeo copy docker://alpine oci-archive:/dev/stdout | yun image import alpine -"
    )]
    Import(ImportArgs),
    /// Fetch an image from an OCI registry; once more to bring it up to date
    #[command(
        after_help = "Examples:\n  yun image pull docker.io/library/nginx:1.27\n  yun image pull web ghcr.io/team/web@sha256:...\n  yun image pull localhost:5000/web\n  pass show registry | yun image pull registry.example.org/web --user ann --password-stdin\n\nLayers that are here already are not fetched again, and a pull that broke off is gone on with by the next one."
    )]
    Pull(PullArgs),
    /// Remember a user and a password for a registry, in a file that only you can read
    #[command(after_help = "Examples:\n  pass show ghcr | yun image login ghcr.io --user ann --password-stdin")]
    Login(LoginArgs),
    /// Forget the user and the password for a registry
    #[command(after_help = "Examples:\n  yun image logout ghcr.io")]
    Logout {
        /// The registry, as in ghcr.io
        registry: String,
    },
    /// Write an image to a file, or - for standard output, in a form that other programs read
    #[command(
        after_help = "Examples:\n  yun image export web web.tar\n  yun image export web - | docker load\n  yun image export deb12 deb12.raw --format raw\n  yun image export web - | skopeo copy oci-archive:/dev/stdin docker://registry.example.org/web\n\nContainers become one archive that is both an OCI layout and what docker save writes. VMs become a qcow2 or raw disk."
    )]
    Export(ExportArgs),
    /// Read an image's content again and compare it with its digest
    Verify {
        /// Its name, or the start of its digest
        #[arg(add = ArgValueCompleter::new(complete::images))]
        image: String,
    },
    /// Remove every image of the project that no instance was made from
    #[command(after_help = "Examples:\n  yun image prune --dry-run\n  yun image prune --keep base --keep web")]
    Prune {
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
        /// Keep these, used or not
        #[arg(long, value_name = "IMAGE", add = ArgValueCompleter::new(complete::images))]
        keep: Vec<String>,
    },
    /// Remove images that no instance uses
    Rm {
        /// Names, or starts of digests
        #[arg(required = true, add = ArgValueCompleter::new(complete::images))]
        images: Vec<String>,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BuildArgs {
    /// What to make: small-vm, debian-vm, busybox or debian
    #[arg(value_parser = parse_base)]
    pub(crate) base: RecipeBase,
    /// The image's name [default: that of what is made]
    pub(crate) name: Option<Name>,
    /// More Debian packages
    #[arg(long, value_delimiter = ',')]
    pub(crate) packages: Vec<String>,
    /// The Debian release, as in bookworm or trixie [default: the node's]
    #[arg(long, visible_alias = "release")]
    pub(crate) suite: Option<String>,
    /// debian-vm: with the real cloud-init, as official cloud images have it, instead of yun's own, which boots faster
    #[arg(long)]
    pub(crate) cloud_init: bool,
    /// Containers: the entrypoint to record
    #[arg(long)]
    pub(crate) entrypoint: Option<String>,
    /// Return at once with the operation's id
    #[arg(long, short = 'd')]
    pub(crate) detach: bool,
    /// Containers: the command to record
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ImportArgs {
    /// The image's name
    pub(crate) name: Name,
    /// A file, a URL, or - for standard input
    pub(crate) source: String,
    /// The format: qcow2, raw, rootfs, oci-layout or docker-archive [default: found out]
    #[arg(long, value_parser = parse_format)]
    pub(crate) format: Option<ImageFormat>,
    /// What the bytes must hash to, as in sha256:...
    #[arg(long)]
    pub(crate) checksum: Option<yun_types::Digest>,
    /// Root file systems: the entrypoint to record
    #[arg(long)]
    pub(crate) entrypoint: Option<String>,
    /// Return at once with the operation's id (URLs only)
    #[arg(long, short = 'd')]
    pub(crate) detach: bool,
    /// Root file systems: the command to record
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Clone, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct PullArgs {
    /// The image's name here [default: the last part of the reference, and its tag]
    pub(crate) name: Option<Name>,
    /// Which, as in docker.io/library/nginx:1.27 or localhost:5000/team/web@sha256:...
    #[arg(required = true)]
    pub(crate) reference: Reference,
    /// Ask as this user
    #[arg(long, requires = "password_stdin")]
    pub(crate) user: Option<String>,
    /// Read the password, or an access token, from standard input
    #[arg(long, requires = "user")]
    pub(crate) password_stdin: bool,
    /// Allow plain HTTP, and certificates that nobody vouches for
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Return at once with the operation's id
    #[arg(long, short = 'd')]
    pub(crate) detach: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ExportArgs {
    /// Its name, or the start of its digest
    #[arg(add = ArgValueCompleter::new(complete::images))]
    pub(crate) image: String,
    /// A file that is not there yet, or - for standard output
    pub(crate) file: String,
    /// oci-archive, docker-archive, qcow2 or raw [default: oci-archive for containers, qcow2 for VMs]
    #[arg(long, value_parser = parse_export)]
    pub(crate) format: Option<ExportFormat>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LoginArgs {
    /// The registry, as in ghcr.io; docker.io is Docker's
    pub(crate) registry: String,
    /// The user there
    #[arg(long)]
    pub(crate) user: String,
    /// Read the password, or an access token, from standard input
    #[arg(long, required = true)]
    pub(crate) password_stdin: bool,
}

fn parse_base(text: &str) -> Result<RecipeBase, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| format!("{text:?} is not a recipe: use small-vm, debian-vm, busybox or debian"))
}

fn parse_format(text: &str) -> Result<ImageFormat, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| format!("{text:?} is not a format: use qcow2, raw, rootfs, oci-layout or docker-archive"))
}

fn parse_export(text: &str) -> Result<ExportFormat, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| format!("{text:?} is not a form: use oci-archive, docker-archive, qcow2 or raw"))
}
