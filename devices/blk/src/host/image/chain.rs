//! Opens an image with everything that it names: backing files, a data file, extents.
//!
//! The author of an image may be an enemy, who names a file that is not his in order to read it through a guest. So
//! nothing is followed unless the user allows it, and formats are never guessed: a guest may have written a header into
//! what is a raw disk.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imago::format::builder::FormatDriverBuilder;
use imago::format::gate::ImplicitOpenGate;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::vmdk::Vmdk;
use imago::{DynStorage, FormatAccess, StorageOpenOptions};

use super::layer::{ImageFile, Part};
use super::ledger::{Header, Ledger};
use super::remote::Remote;
use crate::host::file::DiskFile;
use crate::host::{Access, Locking};
use crate::options::{Follow, ImageFormat};

/// What imago reads and writes: files, and whatever else a backing disk is.
pub(crate) type Stored = Box<dyn DynStorage>;

/// The most files that stand behind one another. Each keeps up to 160 clusters of metadata in memory.
const MAX_LAYERS: usize = 16;

/// The most files that queues read themselves, besides the one that is written. Each takes one or two descriptors
/// (`--direct`) for every queue: engines have room for 64, and a process often for a thousand. Other files are left to
/// the pool.
const MAX_LISTED: usize = 16;

/// How an image is opened.
#[derive(Clone, Copy)]
pub(in crate::host) struct Mode<'a> {
    pub(in crate::host) access: Access,
    pub(in crate::host) direct: bool,
    pub(in crate::host) locking: Locking,
    pub(in crate::host) follow: Follow,
    /// Where [`Follow::Beside`] looks: the directory of the image that the user named.
    pub(in crate::host) directory: &'a Path,
}

/// The files opened so far.
#[derive(Default)]
pub(crate) struct Seen {
    /// So that none stands behind itself.
    identities: Vec<(u64, u64)>,
    /// Those that queues may read and write themselves.
    pub(in crate::host) files: Vec<Arc<Part>>,
}

impl Seen {
    /// None yet, but for files that data may be in already.
    pub(in crate::host) fn with(files: Vec<Arc<Part>>) -> Self {
        Self { identities: Vec::new(), files }
    }

    fn enter(&mut self, path: &Path) -> io::Result<()> {
        let metadata = std::fs::metadata(path)?;
        let identity = (metadata.dev(), metadata.ino());
        if self.identities.contains(&identity) {
            return Err(invalid(format!("{} stands behind itself", path.display())));
        }
        if self.identities.len() >= MAX_LAYERS {
            return Err(invalid(format!("more than {MAX_LAYERS} files stand behind one another")));
        }
        self.identities.push(identity);
        Ok(())
    }
}

impl Mode<'_> {
    /// For a file that is all there is.
    pub(in crate::host) fn of_one_file(access: Access, direct: bool, locking: Locking) -> Self {
        Self { access, direct, locking, follow: Follow::No, directory: Path::new("") }
    }

    /// The file that an image names, if it may be opened.
    fn follow(&self, named: &Path, by: &Path) -> io::Result<PathBuf> {
        let path = by.parent().unwrap_or(Path::new("")).join(named);
        let what = || format!("{} names the file {}", by.display(), named.display());
        let allowed = match self.follow {
            Follow::No => return Err(refused(format!("{}: --follow allows it", what()))),
            Follow::Beside => {
                // Links are resolved, and nothing is followed after the look.
                let path = path.canonicalize().map_err(|error| at(&what(), &error))?;
                if !path.starts_with(self.directory.canonicalize()?) {
                    let directory = self.directory.display();
                    return Err(refused(format!(
                        "{}, which is not below {directory}: --follow any allows it",
                        what()
                    )));
                }
                path
            }
            Follow::Any => path,
        };
        Ok(allowed)
    }
}

/// An image, open.
pub(crate) struct Opened {
    pub(crate) access: FormatAccess<Stored>,
    /// Of an image that has tables and is written to.
    pub(crate) ledger: Option<Arc<Ledger>>,
    /// Files that its data may be in.
    pub(crate) files: Vec<Arc<Part>>,
    /// What stands behind it, if that is no file.
    pub(crate) remote: Option<Arc<dyn Remote>>,
}

/// Opens an image of this format.
pub(in crate::host) fn open(path: &Path, format: ImageFormat, mode: Mode<'_>) -> io::Result<Opened> {
    let mut seen = Seen::default();
    let (access, ledger) = match format {
        ImageFormat::Raw => {
            let raw =
                Raw::open_image(stored(open_file(path, mode)?, &mut seen), mode.access == Access::Write)?;
            (FormatAccess::new(raw), None)
        }
        ImageFormat::Qcow2 => open_qcow2(path, mode, &mut seen)?,
        ImageFormat::Vmdk if mode.access == Access::Write => {
            return Err(io::Error::new(
                io::ErrorKind::ReadOnlyFilesystem,
                "images of this format are only read (--read-only, or --overlay)",
            ));
        }
        ImageFormat::Vmdk => (FormatAccess::new(open_vmdk(path, mode, &mut seen)?), None),
    };
    Ok(Opened { access, ledger, files: seen.files, remote: None })
}

/// Opens a file as the image that it is a part of.
fn open_file(path: &Path, mode: Mode<'_>) -> io::Result<DiskFile> {
    DiskFile::open(path, mode.access, mode.direct, mode.locking).map_err(io::Error::other)
}

fn stored(disk: DiskFile, seen: &mut Seen) -> Stored {
    let file = ImageFile::new(disk);
    Box::new(if seen.files.len() < MAX_LISTED { file.listed(&mut seen.files) } else { file })
}

/// Opens a qcow2 image and what stands behind it.
fn open_qcow2(
    path: &Path,
    mode: Mode<'_>,
    seen: &mut Seen,
) -> io::Result<(FormatAccess<Stored>, Option<Arc<Ledger>>)> {
    let (mut image, ledger) = open_qcow2_alone(path, mode, seen)?;
    if image.requires_external_data_file() {
        let named = image
            .implicit_external_data_file()
            .ok_or_else(|| invalid("it keeps its data in another file, and does not say in which"))?;
        let data = mode.follow(Path::new(named), path)?;
        seen.enter(&data)?;
        image.set_data_file(Some(stored(open_file(&data, mode)?, seen)));
    }
    let backing = match image.implicit_backing_file() {
        None => None,
        Some(named) => {
            let format = image.implicit_backing_format().map(String::as_str);
            let backing = mode.follow(Path::new(named), path)?;
            Some(open_backing(&backing, format, mode, seen).map_err(|error| at(named, &error))?)
        }
    };
    image.set_backing(backing);
    Ok((FormatAccess::new(image), ledger))
}

/// Opens a qcow2 image without what stands behind it.
pub(in crate::host) fn open_qcow2_alone(
    path: &Path,
    mode: Mode<'_>,
    seen: &mut Seen,
) -> io::Result<(Qcow2<Stored>, Option<Arc<Ledger>>)> {
    seen.enter(path)?;
    let file = open_file(path, mode)?;
    check_qcow2(&file, mode.access)?;
    match mode.access {
        Access::Read => Ok((Qcow2::open_image(stored(file, seen), false)?, None)),
        Access::Write => {
            let (file, ledger) = ImageFile::kept(file)?;
            let file: Stored = Box::new(file.listed(&mut seen.files));
            Ok((Qcow2::open_image(file, true)?, Some(ledger)))
        }
    }
}

fn open_backing(
    path: &Path,
    format: Option<&str>,
    mode: Mode<'_>,
    seen: &mut Seen,
) -> io::Result<FormatAccess<Stored>> {
    let mode = Mode { access: Access::Read, ..mode };
    match format {
        Some("qcow2") => Ok(open_qcow2(path, mode, seen)?.0),
        Some("raw" | "file" | "host_device") => {
            seen.enter(path)?;
            Ok(FormatAccess::new(Raw::open_image(stored(open_file(path, mode)?, seen), false)?))
        }
        Some(other) => Err(invalid(format!("its format, {other}, is not known here"))),
        None => Err(invalid(
            "its format is not recorded, and is not guessed (qemu-img rebase -u -F FORMAT -b FILE IMAGE records it)",
        )),
    }
}

/// Opens a VMDK image: a description and the extents that it names.
pub(in crate::host) fn open_vmdk(path: &Path, mode: Mode<'_>, seen: &mut Seen) -> io::Result<Vmdk<Stored>> {
    // No data is in the description.
    let description: Stored = Box::new(ImageFile::new(open_file(path, mode)?));
    Vmdk::builder(description).open(Extents { mode, by: path, seen })
}

/// Opens the extents of a VMDK image.
struct Extents<'a> {
    mode: Mode<'a>,
    by: &'a Path,
    seen: &'a mut Seen,
}

impl ImplicitOpenGate<Stored> for Extents<'_> {
    fn open_format<F: FormatDriverBuilder<Stored>>(&mut self, _: F) -> io::Result<FormatAccess<Stored>> {
        Err(refused("images behind images of this format are not followed".to_owned()))
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<Stored> {
        let named = options.get_filename().ok_or_else(|| invalid("an extent has no name"))?;
        let path = self.mode.follow(named, self.by)?;
        Ok(stored(open_file(&path, self.mode)?, self.seen))
    }
}

/// Looks at what imago takes for granted: that the tables that it loads at once are in the file.
fn check_qcow2(file: &DiskFile, access: Access) -> io::Result<()> {
    let end = file.size(512).map_err(io::Error::other)?;
    let header = Header::read(file.file())?;
    let wrong = if header.encrypted {
        "it is encrypted, which is not supported"
    } else if header.size == 0 {
        "its disk has no size"
    } else if i64::try_from(header.size).is_err() {
        "its disk is larger than any"
    } else if header.features & 1 != 0 {
        "it was not closed in good order: qemu-img check -r all repairs it"
    } else if header.features & 2 != 0 {
        "it is marked as corrupt: qemu-img check -r all may repair it"
    } else if header.snapshots > 0 && access == Access::Write {
        "it has snapshots within: --read-only, --overlay and --snapshot can serve it"
    } else if header.l1.end > end || header.counts.end > end {
        "it is truncated: its tables are not all there"
    } else {
        return Ok(());
    };
    Err(invalid(wrong))
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn refused(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, what)
}

fn at(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
