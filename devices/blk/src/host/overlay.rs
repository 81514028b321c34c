//! A disk over another one that is only read: what is written goes to a qcow2 image of its own.
//!
//! The image says what it was made over, where QEMU would understand it, so that qemu-img can rebase or commit it. That
//! is a claim to be checked and never a name to be followed: what an overlay lies over is what the user says.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imago::FormatAccess;
use imago::raw::Raw;
use outboard_device::DeviceError;
use outboard_device::defs::blk::SECTOR_SIZE;
use outboard_nbd::Uri;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::file::DiskFile;
use super::image::chain::{Mode, Opened, Seen, Stored, open_qcow2_alone};
use super::image::create::{Backing, create_qcow2};
use super::image::layer::{ImageFile, Part};
use super::image::remote::{Remote, RemoteDisk};
use super::image::{self, Durable, Image};
use super::lock::{Access, Locking};
use super::nbd::Nbd;
#[cfg(feature = "rbd")]
use super::rbd::Rbd;
use crate::options::BlkOptions;

/// Clusters of new overlays, in bytes: what qemu-img makes.
const CLUSTER: usize = 65536;

/// Where an overlay is kept.
pub(super) enum Place<'a> {
    /// In this file, which is made if it is not there.
    File(&'a Path),
    /// In a file without a name, gone with the program.
    Nowhere,
}

/// What an overlay lies over.
pub(super) struct Source {
    access: FormatAccess<Stored>,
    /// Files that its data may be in.
    files: Vec<Arc<Part>>,
    /// What it is, if it is no file.
    remote: Option<Arc<dyn Remote>>,
    name: Name,
    /// The format, as QEMU calls it.
    format: &'static str,
}

/// What others find a source by.
enum Name {
    Path(PathBuf),
    Nbd(Uri),
    /// As QEMU writes it.
    #[cfg(feature = "rbd")]
    Rbd(String),
}

impl Source {
    /// Opens the disk of the options, to read.
    pub(super) fn open(options: &BlkOptions) -> Result<Self, DeviceError> {
        // What a guest sees is the overlay, whatever the blocks underneath.
        let readable = || BlkOptions { read_only: true, block_size: None, num_queues: 1, ..options.clone() };
        match options {
            BlkOptions { blk_file: Some(path), format, .. } => {
                let Opened { access, files, .. } = image::open(path, Access::Read, options)?;
                let name = Name::Path(path.clone());
                Ok(Self { access, files, remote: None, name, format: format.name() })
            }
            BlkOptions { nbd: Some(uri), .. } => {
                Self::elsewhere(Arc::new(Nbd::open(uri, &readable())?), Name::Nbd(uri.clone()))
            }
            #[cfg(feature = "rbd")]
            BlkOptions { rbd: Some(name), .. } => {
                let remote = Arc::new(Rbd::open(name, &readable())?);
                Self::elsewhere(remote, Name::Rbd(Rbd::recorded(name)))
            }
            #[cfg(not(feature = "rbd"))]
            BlkOptions { rbd: Some(name), .. } => super::rbd(name, &readable()).and(Err(no_source())),
            _ => Err(no_source()),
        }
    }

    fn elsewhere(remote: Arc<dyn Remote>, name: Name) -> Result<Self, DeviceError> {
        let access = Raw::open_image(RemoteDisk::stored(Arc::clone(&remote)), false)
            .map(FormatAccess::new)
            .map_err(|error| DeviceError::host("cannot read the disk underneath", error))?;
        Ok(Self { access, files: Vec::new(), remote: Some(remote), name, format: "raw" })
    }

    /// Its size, without a part of a sector at the end.
    fn size(&self) -> u64 {
        let size = self.access.size();
        size - size % SECTOR_SIZE
    }

    /// As the header of an image has it: absolute, so that it does not depend on where the image is.
    fn recorded(&self) -> io::Result<String> {
        match &self.name {
            Name::Path(path) => path.canonicalize()?.into_os_string().into_string().map_err(|path| {
                unfit(format!("the name {} is not UTF-8, as qcow2 wants it", Path::new(&path).display()))
            }),
            Name::Nbd(uri) => Ok(absolute(uri)?.name()),
            #[cfg(feature = "rbd")]
            Name::Rbd(name) => Ok(name.clone()),
        }
    }

    /// Whether `recorded`, in the overlay `by`, means this source.
    fn is(&self, recorded: &str, by: &Path) -> bool {
        match &self.name {
            Name::Path(path) => {
                let identity =
                    |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
                let recorded = identity(&by.parent().unwrap_or(Path::new("")).join(recorded));
                recorded.is_some() && recorded == identity(path)
            }
            Name::Nbd(uri) => {
                let recorded = Uri::parse(recorded).ok();
                let same = |recorded: Uri| absolute(uri).is_ok_and(|uri| uri.is_export_of(&recorded));
                recorded.is_some_and(same)
            }
            // QEMU writes options behind it.
            #[cfg(feature = "rbd")]
            Name::Rbd(name) => {
                recorded.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            }
        }
    }
}

/// The same export, with a socket that does not depend on the working directory.
fn absolute(uri: &Uri) -> io::Result<Uri> {
    let mut uri = uri.clone();
    if let outboard_nbd::Place::Unix(path) = &mut uri.place
        && !path.as_os_str().as_encoded_bytes().starts_with(b"\0")
    {
        *path = std::path::absolute(&*path)?;
    }
    Ok(uri)
}

fn no_source() -> DeviceError {
    DeviceError::Invalid("an overlay lies over a disk (--blk-file, --nbd or --rbd)".to_owned())
}

/// Puts an overlay over `source`.
pub(super) fn open(
    place: &Place<'_>,
    source: Source,
    direct: bool,
    locking: Locking,
) -> Result<Image, DeviceError> {
    match place {
        Place::File(path) => open_file(path, source, direct, locking)
            .map(|access| Image::new(access, false, Durable::Yes))
            .map_err(|error| DeviceError::host(format!("cannot use the overlay {}", path.display()), error)),
        Place::Nowhere => open_unnamed(source)
            .map(|access| Image::new(access, false, Durable::No))
            .map_err(|error| DeviceError::host("cannot make a temporary overlay", error)),
    }
}

fn open_file(path: &Path, mut source: Source, direct: bool, locking: Locking) -> io::Result<Opened> {
    if !path.try_exists()? {
        create(path, &source)?;
    }
    let mode = Mode::of_one_file(Access::Write, direct, locking);
    let mut seen = Seen::with(std::mem::take(&mut source.files));
    let (mut image, ledger) = open_qcow2_alone(path, mode, &mut seen)?;
    if image.requires_external_data_file() {
        return Err(unfit("it keeps its data in another file"));
    }
    let recorded = image.implicit_backing_file().cloned();
    let format = image.implicit_backing_format().cloned();
    let size = source.size();
    image.set_data_file(None);
    let expected = source.recorded()?;
    match recorded {
        Some(recorded) if source.is(&recorded, path) => {}
        Some(recorded) => return Err(unfit(format!("it was made over {recorded}, not over {expected}"))),
        None => return Err(unfit(format!("it was not made over another disk, and not over {expected}"))),
    }
    if let Some(format) = format.filter(|format| format != source.format) {
        let what = format!("it was made over an image of format {format}, not {}", source.format);
        return Err(unfit(what));
    }
    image.set_backing(Some(source.access));
    let access = FormatAccess::new(image);
    if access.size() != size {
        let what = format!("it has {} bytes, what it is to lie over {size}", access.size());
        return Err(unfit(what));
    }
    Ok(Opened { access, ledger, files: seen.files, remote: source.remote })
}

/// Makes an overlay, whole or not at all.
fn create(path: &Path, source: &Source) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let result = create_partial(&partial, source).and_then(|()| {
        put_in_place(&partial, path)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    });
    if result.is_err() {
        // Best effort: the error is what counts.
        let _ = std::fs::remove_file(&partial);
    }
    result
}

/// Gives a file its name. Somebody else may have made one of that name: that is not overwritten.
fn put_in_place(partial: &Path, path: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, partial, CWD, path, RenameFlags::NOREPLACE) {
        // NFS and others know no such thing.
        Err(Errno::INVAL | Errno::NOSYS) => link_in_place(partial, path),
        renamed => Ok(renamed?),
    }
}

/// The same in two steps: a moment with both names does no harm.
fn link_in_place(partial: &Path, path: &Path) -> io::Result<()> {
    std::fs::hard_link(partial, path)?;
    std::fs::remove_file(partial)
}

fn create_partial(path: &Path, source: &Source) -> io::Result<()> {
    let file = DiskFile::create(path)?;
    let name = source.recorded()?;
    let backing = Backing { name: &name, format: source.format };
    let access =
        FormatAccess::new(create_qcow2(ImageFile::new(file), source.size(), CLUSTER, Some(&backing))?);
    access.flush()?;
    access.sync()
}

fn open_unnamed(mut source: Source) -> io::Result<Opened> {
    let directory = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let file = DiskFile::unnamed(&directory)
        .map_err(|error| io::Error::new(error.kind(), format!("in {}: {error}", directory.display())))?;
    let mut files = std::mem::take(&mut source.files);
    let file = ImageFile::new(file).listed(&mut files);
    let mut image = create_qcow2(file, source.size(), CLUSTER, None)?;
    image.set_backing(Some(source.access));
    Ok(Opened { access: FormatAccess::new(image), ledger: None, files, remote: source.remote })
}

fn unfit(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_put_in_place_and_never_over_another() {
        for put in [put_in_place, link_in_place] {
            let directory = tempfile::tempdir().unwrap();
            let (partial, path) = (directory.path().join("partial"), directory.path().join("overlay"));
            std::fs::write(&partial, "new").unwrap();
            std::fs::write(&path, "old").unwrap();
            assert_eq!(put(&partial, &path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&path).unwrap(), b"old");
            std::fs::remove_file(&path).unwrap();
            put(&partial, &path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"new");
            assert!(!partial.exists());
        }
    }
}
