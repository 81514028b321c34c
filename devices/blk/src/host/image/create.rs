//! Makes new qcow2 images.

use std::io;

use imago::format::builder::{FormatCreateBuilder, FormatDriverBuilder};
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess};

use super::chain::Stored;
use super::layer::ImageFile;

/// What stands behind an image, as its header has it.
pub(crate) struct Backing<'a> {
    /// Absolute, or relative to the image.
    pub(crate) name: &'a str,
    pub(crate) format: &'a str,
}

/// Makes an image in `file`, which is empty. It can be used at once, as it will be opened later on, but without what
/// stands behind it.
pub(crate) fn create_qcow2(
    file: ImageFile,
    size: u64,
    cluster: usize,
    backing: Option<&Backing<'_>>,
) -> io::Result<Qcow2<Stored>> {
    let file: Stored = Box::new(file);
    let mut builder =
        Qcow2::<Stored, FormatAccess<Stored>>::create_builder(file).size(size).cluster_size(cluster);
    if let Some(Backing { name, format }) = backing {
        builder = builder.backing((*name).to_owned(), (*format).to_owned());
    }
    builder.create_open(DenyImplicitOpenGate::default(), |file| {
        Ok(Qcow2::builder(file).write(true).backing(None))
    })
}
