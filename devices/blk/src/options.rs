//! The command line of the block device. Trusted: it comes from whoever starts the program.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, ArgGroup, Args, ValueEnum};
use outboard_device::defs::blk::{ID_BYTES, SECTOR_SIZE};
use outboard_nbd::Uri;

use crate::host::Locking;
use crate::limits::LimitOptions;

/// What the RAM disk measures if nothing is said, in bytes.
pub const DEFAULT_RAM: u64 = 64 << 20;

/// What the disk is and how it is shown.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("blk_source").args(["blk_file", "nbd", "rbd"]).multiple(true))]
pub struct BlkOptions {
    /// Serve this image or block device
    #[arg(long, value_name = "PATH")]
    pub blk_file: Option<PathBuf>,

    /// Format of the image. It is never guessed: a guest can write any header into a raw disk
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = ImageFormat::Raw, requires_if("qcow2", "blk_file"), requires_if("vmdk", "blk_file"))]
    pub format: ImageFormat,

    /// Open the files that the image names (backing files, data files, extents): not at all, only in the image's
    /// directory and below, or anywhere. Whoever made the image chose the names
    #[arg(long, value_enum, value_name = "WHERE", default_value_t = Follow::No)]
    pub follow: Follow,

    /// Only read the disk, and write to this qcow2 image instead, which is made if it is not there
    #[arg(long, value_name = "PATH", requires = "blk_source", conflicts_with_all = ["read_only", "snapshot"])]
    pub overlay: Option<PathBuf>,

    /// Only read the disk, and write to a temporary file instead, gone with the program
    #[arg(long, requires = "blk_source", conflicts_with = "read_only")]
    pub snapshot: bool,

    /// Serve a RAM disk of this size, zeroed, gone with the program (suffixes K, M, G, T) [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "blk_file")]
    pub ram: Option<u64>,

    /// Serve an export of an NBD server (nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH, nbds:// with TLS)
    #[arg(long, value_name = "URI", value_parser = parse_uri, conflicts_with_all = ["blk_file", "ram"])]
    pub nbd: Option<Uri>,

    /// Fail requests that the NBD server has not answered for so many seconds
    #[arg(long, value_name = "SECONDS", requires = "nbd", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub nbd_timeout: u32,

    /// Serve an image in a Ceph cluster
    #[arg(long, value_name = "POOL/IMAGE", conflicts_with_all = ["blk_file", "ram", "nbd"], hide = !cfg!(feature = "rbd"))]
    pub rbd: Option<String>,

    /// Configuration file of the cluster [default: where Ceph looks for it]
    #[arg(long, value_name = "PATH", requires = "rbd", hide = !cfg!(feature = "rbd"))]
    pub rbd_conf: Option<PathBuf>,

    /// User of the cluster, without "client." [default: admin]
    #[arg(long, value_name = "NAME", requires = "rbd", hide = !cfg!(feature = "rbd"))]
    pub rbd_user: Option<String>,

    /// Fail requests that the cluster has not answered for so many seconds
    #[arg(long, value_name = "SECONDS", requires = "rbd", default_value_t = 60, hide = !cfg!(feature = "rbd"),
          value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub rbd_timeout: u32,

    /// Refuse writes
    #[arg(long)]
    pub read_only: bool,

    /// Bypass the host's page cache (O_DIRECT)
    #[arg(long, requires = "blk_file")]
    pub direct: bool,

    /// Lock the image against other programs, as QEMU does
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Locking::Auto)]
    pub locking: Locking,

    /// Cache of written data: on: stable at the next flush; off: stable when a write completes
    #[arg(long, value_name = "ON|OFF", default_value = "on", action = ArgAction::Set,
          value_parser = PossibleValuesParser::new(["on", "off"]).map(|mode| mode == "on"))]
    pub writeback: bool,

    /// Logical block size in bytes [default: that of the block device, 512 for files]
    #[arg(long, value_name = "BYTES", value_parser = parse_block_size)]
    pub block_size: Option<u32>,

    /// Zones of this size that must be written in sequence: a host-managed zoned disk, emulated. The write pointers
    /// of an image are kept beside it, in a file with the suffix .zones
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub zoned: Option<u64>,

    /// What can be written to each zone [default: all of it]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "zoned")]
    pub zone_capacity: Option<u64>,

    /// Zones at the front that can be written anywhere
    #[arg(long, value_name = "N", default_value_t = 0, requires = "zoned")]
    pub zone_conventional: u32,

    /// Zones that may be open at a time, 0 for any number
    #[arg(long, value_name = "N", default_value_t = 0, requires = "zoned")]
    pub zone_max_open: u32,

    /// Zones that may be open or closed with data at a time, 0 for any number
    #[arg(long, value_name = "N", default_value_t = 0, requires = "zoned")]
    pub zone_max_active: u32,

    /// Look once a second whether the file or block device has grown, and tell the guest
    #[arg(long, value_name = "ON|OFF", default_value = "on", action = ArgAction::Set,
          value_parser = PossibleValuesParser::new(["on", "off"]).map(|mode| mode == "on"))]
    pub watch_size: bool,

    /// Serial number, at most 20 printable ASCII characters
    #[arg(long, value_name = "TEXT", value_parser = parse_serial)]
    pub serial: Option<String>,

    /// Request queues that a front end may use, 1 to 64; each in use has a thread
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub num_queues: u16,

    /// Largest ring that is served, in descriptors, 4 to 32768
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u16).range(4..=32768))]
    pub queue_size: u16,

    /// What the disk may do per second.
    #[command(flatten)]
    pub limits: LimitOptions,
}

impl ImageFormat {
    /// As QEMU calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }
}

/// How the data of a disk is kept in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ImageFormat {
    /// Byte by byte.
    #[default]
    Raw,
    /// QEMU's, version 2 or 3, with what stands behind it.
    Qcow2,
    /// VMware's, with flat extents; only to read.
    Vmdk,
}

/// Which of the files that an image names are opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Follow {
    /// None: such an image is refused.
    #[default]
    No,
    /// Those in the directory of the image and below.
    Beside,
    /// All.
    Any,
}

impl Default for BlkOptions {
    /// What the program does without options.
    fn default() -> Self {
        Self {
            blk_file: None,
            format: ImageFormat::Raw,
            follow: Follow::No,
            overlay: None,
            snapshot: false,
            ram: None,
            nbd: None,
            nbd_timeout: 30,
            rbd: None,
            rbd_conf: None,
            rbd_user: None,
            rbd_timeout: 60,
            read_only: false,
            direct: false,
            locking: Locking::Auto,
            writeback: true,
            block_size: None,
            zoned: None,
            zone_capacity: None,
            zone_conventional: 0,
            zone_max_open: 0,
            zone_max_active: 0,
            watch_size: true,
            serial: None,
            num_queues: 16,
            queue_size: 1024,
            limits: LimitOptions::default(),
        }
    }
}

/// Reads the size of a disk in bytes, as [`parse_bytes`] does: a positive multiple of 512.
///
/// # Errors
/// What is wrong with it, for the user.
pub fn parse_size(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        0 => Err("a disk has at least one sector".to_owned()),
        bytes if !bytes.is_multiple_of(SECTOR_SIZE) => Err(format!("not a multiple of {SECTOR_SIZE}")),
        bytes => Ok(bytes),
    }
}

/// Reads a number of bytes below 8 EiB, with an optional suffix K, M, G or T (powers of 1024).
///
/// # Errors
/// What is wrong with it, for the user.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.bytes().last() {
        Some(b'k' | b'K') => (text.len() - 1, 10),
        Some(b'm' | b'M') => (text.len() - 1, 20),
        Some(b'g' | b'G') => (text.len() - 1, 30),
        Some(b't' | b'T') => (text.len() - 1, 40),
        _ => (text.len(), 0),
    };
    let number: u64 = text
        .get(..digits)
        .unwrap_or_default()
        .parse()
        .map_err(|_| "a size is a number, with suffix K, M, G or T if need be".to_owned())?;
    let bytes = number.checked_mul(1 << shift).filter(|&bytes| i64::try_from(bytes).is_ok());
    bytes.ok_or_else(|| "more than 8 EiB".to_owned())
}

fn parse_uri(text: &str) -> Result<Uri, String> {
    Uri::parse(text).map_err(|error| error.to_string())
}

fn parse_block_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" | "4K" | "4k" => Ok(4096),
        _ => Err("512 or 4096".to_owned()),
    }
}

fn parse_serial(text: &str) -> Result<String, String> {
    if text.len() > ID_BYTES {
        return Err(format!("{} characters, at most {ID_BYTES} fit", text.len()));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Err("only printable ASCII characters".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, FromArgMatches};

    fn parse(args: &[&str]) -> Result<BlkOptions, String> {
        let command = BlkOptions::augment_args(Command::new("test").no_binary_name(true));
        let matches = command.try_get_matches_from(args).map_err(|error| error.to_string())?;
        BlkOptions::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn options_none_are_the_documented_defaults() {
        assert_eq!(format!("{:?}", parse(&[]).unwrap()), format!("{:?}", BlkOptions::default()));
    }

    #[test]
    fn options_all_given_are_kept() {
        let options = parse(&[
            "--blk-file=/dev/null",
            "--read-only",
            "--direct",
            "--locking=off",
            "--writeback",
            "off",
            "--block-size=4096",
            "--watch-size=off",
            "--serial=AB 12",
            "--num-queues=64",
            "--queue-size=32768",
        ])
        .unwrap();
        assert!(options.read_only && options.direct && !options.writeback && !options.watch_size);
        assert_eq!(options.locking, Locking::Off);
        assert_eq!(options.block_size, Some(4096));
        assert_eq!(options.serial.as_deref(), Some("AB 12"));
        assert_eq!((options.num_queues, options.queue_size), (64, 32768));
    }

    #[test]
    fn options_wrong_are_refused_with_the_reason() {
        let cases: &[(&[&str], &str)] = &[
            (&["--ram=1G", "--blk-file=x"], "cannot be used with"),
            (&["--direct"], "--blk-file"),
            (&["--nbd=disk.img"], "nbd://"),
            (&["--nbd=nbd://h/", "--ram=1G"], "cannot be used with"),
            (&["--nbd=nbd://h/", "--nbd-timeout=0"], "1..=86400"),
            (&["--rbd=p/i", "--nbd=nbd://h/"], "cannot be used with"),
            (&["--rbd-conf=x"], "--rbd"),
            (&["--overlay=x"], "--blk-file"),
            (&["--snapshot", "--ram=1G"], "--nbd"),
            (&["--snapshot", "--overlay=x", "--nbd=nbd://h/"], "cannot be used with"),
            (&["--overlay=x", "--nbd=nbd://h/", "--read-only"], "cannot be used with"),
            (&["--snapshot", "--nbd=nbd://h/", "--blk-file=x"], "cannot be used with"),
            (&["--zone-capacity=1M"], "--zoned"),
            (&["--zone-conventional=1"], "--zoned"),
            (&["--zone-max-open=1"], "--zoned"),
            (&["--zone-max-active=1"], "--zoned"),
            (&["--zoned=0"], "at least one sector"),
            (&["--ram=0"], "at least one sector"),
            (&["--ram=513"], "multiple of 512"),
            (&["--ram=9000000000G"], "more than 8 EiB"),
            (&["--ram=8388608T"], "more than 8 EiB"),
            (&["--ram=M"], "a number"),
            (&["--ram="], "a number"),
            (&["--ram=64Ⅿ"], "a number"),
            (&["--ram=-1"], "a number"),
            (&["--block-size=1024"], "512 or 4096"),
            (&["--serial=123456789012345678901"], "at most 20"),
            (&["--serial=tab\t"], "printable"),
            (&["--num-queues=0"], "1..=64"),
            (&["--num-queues=65"], "1..=64"),
            (&["--queue-size=3"], "4..=32768"),
            (&["--queue-size=32769"], "4..=32768"),
            (&["--locking=perhaps"], "--locking"),
            (&["--iops=1K"], "a number of requests"),
            (&["--iops-write=10:0"], "burst of 0"),
            (&["--bandwidth-read=10X"], "a number"),
            (&["--writeback=maybe"], "--writeback"),
        ];
        for (args, reason) in cases {
            let error = parse(args).unwrap_err();
            assert!(error.contains(reason), "{args:?}: {error}");
        }
    }

    #[test]
    fn size_with_suffix_is_in_powers_of_1024() {
        for (text, bytes) in [("512", 512), ("1k", 1024), ("3M", 3 << 20), ("2G", 2 << 30), ("1T", 1 << 40)] {
            assert_eq!(parse_size(text), Ok(bytes));
        }
    }
}
