//! An image over a disk elsewhere, so that nobody waits for that but those who need it.
//!
//! What lies beneath is read without the image. That is sound because it never changes, and because clusters of which
//! the image has nothing never come back once it has something: what is still beneath when the image is taken again was
//! so all the time.

use std::any::Any;
use std::io;
use std::sync::atomic::Ordering;

use imago::{FormatAccess, Mapping};

use super::Image;
use super::chain::Stored;
use super::remote::{Remote, RemoteDisk, fill};

impl Image {
    /// Fills `data` from `offset` bytes on.
    pub(super) fn read_over(
        &self,
        remote: &dyn Remote,
        mut offset: u64,
        mut data: &mut [u8],
    ) -> io::Result<()> {
        while !data.is_empty() {
            let (access, alarm) = self.shared()?;
            let (beneath, len) = run(&access, offset, data.len())?;
            let (piece, rest) = data.split_at_mut_checked(len).ok_or(io::ErrorKind::InvalidData)?;
            if beneath {
                drop((access, alarm));
                fill(remote, offset, piece)?;
            } else {
                access.read(piece, offset)?;
            }
            offset += len as u64;
            data = rest;
        }
        Ok(())
    }

    /// Writes to clusters of which some are not in the image yet: these are written whole.
    pub(super) fn write_over(&self, remote: &dyn Remote, offset: u64, data: &[u8]) -> io::Result<()> {
        let cluster = u64::from(self.shape.optimal_io).max(1);
        let (start, end) = (offset - offset % cluster, offset + data.len() as u64);
        let stop = end.next_multiple_of(cluster).min(self.bytes.load(Ordering::Relaxed)).max(end);
        let (before, behind) = ((offset - start) as usize, (stop - end) as usize);
        let mut whole = vec![0; before + data.len() + behind];
        let short = before > 0 && behind > 0 && whole.len() as u64 <= 2 * cluster;
        if short {
            // At once: to wait twice takes longer than what lies between.
            self.read_over(remote, start, &mut whole)?;
        }
        let (head, rest) = whole.split_at_mut_checked(before).ok_or(io::ErrorKind::InvalidInput)?;
        let (middle, tail) = rest.split_at_mut_checked(data.len()).ok_or(io::ErrorKind::InvalidInput)?;
        if !short {
            self.read_over(remote, start, head)?;
            self.read_over(remote, end, tail)?;
        }
        middle.copy_from_slice(data);

        let (access, _alarm) = self.alone()?;
        // Others may have written there meanwhile.
        let first = if run(&access, start, before)? == (true, before) { 0 } else { before };
        let behind = if run(&access, end, behind)? == (true, behind) { behind } else { 0 };
        let bytes = whole.get(first..before + data.len() + behind).unwrap_or_default();
        let result = access.write(bytes, start + first as u64);
        // Also when it failed half way.
        self.store(&access).and(result)
    }
}

/// Whether these bytes are not in the image but in what lies beneath, and how many of them are where the first is.
fn run(access: &FormatAccess<Stored>, offset: u64, len: usize) -> io::Result<(bool, usize)> {
    let (mut beneath, mut done) = (None, 0);
    while done < len {
        let (mapping, mapped) = access.get_mapping(offset + done as u64, (len - done) as u64)?;
        let is_beneath = match mapping {
            Mapping::Raw { storage, .. } => {
                let storage: &dyn Any = &**storage;
                storage.is::<RemoteDisk>()
            }
            _ => false,
        };
        if *beneath.get_or_insert(is_beneath) != is_beneath {
            break;
        }
        done = match usize::try_from(mapped) {
            Ok(0) if is_beneath => return Err(io::ErrorKind::UnexpectedEof.into()),
            // The image ends here, and knows what is behind its end.
            Ok(0) | Err(_) => len,
            Ok(mapped) => len.min(done.saturating_add(mapped)),
        };
    }
    Ok((beneath.unwrap_or(false), done))
}
