//! The buffers of one chain as pieces of this process's memory, in the form that vectored system calls take, with
//! the two cursors that requests are read and answered through. The guest is the author of every address in here;
//! they were translated when they were added, and are never looked up again.
#![allow(unsafe_code)] // copies from and to raw addresses, and system calls on them

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::iovec;
use outboard_guest_memory::{MemoryMap, Segment, copy_from_guest, copy_shared, copy_to_guest, fill_guest};
use zerocopy::FromBytes;

use crate::error::RingError;

/// Most pieces of one chain: 32768 descriptors, and as many region borders crossed.
const MAX_PIECES: usize = 65536;
/// What a recycled body may keep allocated.
const KEPT_PIECES: usize = 1024;
/// Pieces per system call (UIO_MAXIOV).
const PIECES_PER_CALL: usize = 1024;

/// Pieces of guest memory: first those that the device reads, then those that it writes.
///
/// Invariant: every piece came out of `mem`, which keeps it mapped; cursors only ever narrow a piece, or widen it
/// back to what it was.
pub(crate) struct Buffers {
    mem: MemoryMap,
    hint: usize,
    pieces: Vec<iovec>,
    /// Guest-physical address of each piece as it was added.
    gpas: Vec<u64>,
    /// Index of the first writable piece.
    border: usize,
    read: Cursor,
    write: Cursor,
    status: Option<StatusByte>,
}

/// Progress through a run of pieces. Front and back piece may be narrowed, none in between.
#[derive(Clone, Copy, Default)]
struct Cursor {
    at: usize,
    end: usize,
    /// Bytes left.
    left: usize,
    /// Bytes taken off the front of piece `at`.
    head_cut: usize,
    /// Bytes taken off the back of piece `end - 1`.
    tail_cut: usize,
}

/// The byte that was set aside for a status.
#[derive(Clone, Copy)]
struct StatusByte {
    place: *mut u8,
    gpa: u64,
    written: bool,
}

// SAFETY: the raw pointers go into guest memory, which any thread may access by copies; `mem` travels along.
unsafe impl Send for Buffers {}

impl Buffers {
    pub(crate) fn new(mem: MemoryMap) -> Self {
        Self {
            mem,
            hint: 0,
            pieces: Vec::new(),
            gpas: Vec::new(),
            border: 0,
            read: Cursor::default(),
            write: Cursor::default(),
            status: None,
        }
    }

    /// Empties the buffers, for use with `mem`.
    #[inline]
    pub(crate) fn recycle(&mut self, mem: &MemoryMap) {
        self.pieces.clear();
        self.gpas.clear();
        if self.pieces.capacity() > KEPT_PIECES {
            self.pieces.shrink_to(KEPT_PIECES);
            self.gpas.shrink_to(KEPT_PIECES);
        }
        if !self.mem.same_as(mem) {
            self.mem = mem.clone();
            self.hint = 0;
        }
        self.border = 0;
        self.read = Cursor::default();
        self.write = Cursor::default();
        self.status = None;
    }

    /// Appends a buffer of the chain; a length of 0 adds nothing. Readable ones come first.
    #[inline]
    pub(crate) fn push(&mut self, addr: u64, len: u32, writable: bool) -> Result<(), Box<RingError>> {
        let Self { mem, hint, pieces, gpas, border, read, write, .. } = self;
        let bytes = (read.left + write.left) as u64 + u64::from(len);
        if bytes > u64::from(u32::MAX) {
            return Err(RingError::TooLong { bytes }.into());
        }
        let added = mem.pieces_hinted(hint, addr, u64::from(len), |piece| {
            pieces.push(piece.iovec());
            gpas.push(piece.gpa());
        });
        if let Err(cause) = added {
            return Err(RingError::BufferUnmapped { addr, len, cause }.into());
        }
        if pieces.len() > MAX_PIECES {
            return Err(RingError::TooManyPieces { limit: MAX_PIECES }.into());
        }
        if writable {
            write.left += len as usize;
        } else {
            *border = pieces.len();
            read.left += len as usize;
        }
        Ok(())
    }

    /// Ends the adding: both cursors stand at their starts.
    #[inline]
    pub(crate) fn seal(&mut self) {
        self.read.end = self.border;
        self.write.at = self.border;
        self.write.end = self.pieces.len();
    }

    /// Both cursors back to their starts, as sealed.
    pub(crate) fn rewind(&mut self) {
        for cursor in [&mut self.read, &mut self.write] {
            cursor.widen_front(&mut self.pieces);
            cursor.widen_back(&mut self.pieces);
        }
        let bytes = |pieces: Option<&[iovec]>| pieces.unwrap_or(&[]).iter().map(|piece| piece.iov_len).sum();
        let (readable, writable) = (self.pieces.get(..self.border), self.pieces.get(self.border..));
        self.read = Cursor { left: bytes(readable), ..Cursor::default() };
        self.write = Cursor { left: bytes(writable), ..Cursor::default() };
        self.status = None;
        self.seal();
    }

    #[inline]
    pub(crate) fn readable_len(&self) -> usize {
        self.read.left
    }

    #[inline]
    pub(crate) fn writable_len(&self) -> usize {
        self.write.left
    }

    #[inline]
    pub(crate) fn readable(&self) -> &[iovec] {
        self.read.span(&self.pieces)
    }

    #[inline]
    pub(crate) fn writable(&self) -> &[iovec] {
        self.write.span(&self.pieces)
    }

    /// Copies out and consumes `out.len()` bytes; what is left must suffice, else less is copied.
    #[inline]
    pub(crate) fn read(&mut self, out: &mut [u8]) {
        let mut rest = out;
        while let Some(piece) = self.readable().first().copied() {
            let len = piece.iov_len.min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            // SAFETY: `len` bytes of a piece, mapped by the invariant; no reference into guest memory exists.
            unsafe { copy_from_guest(piece.iov_base.cast(), now) };
            self.advance_readable(len);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
    }

    /// Copies out and consumes a value; what is left must suffice, else its end is zeroes.
    #[inline]
    pub(crate) fn read_value<T: FromBytes>(&mut self) -> T {
        let mut value = MaybeUninit::<T>::zeroed();
        let start = value.as_mut_ptr().cast::<u8>();
        // SAFETY: the bytes of `value`, all of them initialised with zeroes.
        self.read(unsafe { std::slice::from_raw_parts_mut(start, size_of::<T>()) });
        // SAFETY: initialised, and any bytes make a `T`.
        unsafe { value.assume_init() }
    }

    /// Copies in and consumes `data.len()` bytes; what is left must suffice, else less is copied.
    #[inline]
    pub(crate) fn write(&mut self, data: &[u8]) {
        let mut rest = data;
        while let Some(piece) = self.writable().first().copied() {
            let (now, later) = rest.split_at(piece.iov_len.min(rest.len()));
            // SAFETY: as for reading.
            unsafe { copy_to_guest(piece.iov_base.cast(), now) };
            self.advance_writable(now.len());
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
    }

    /// Writes and consumes up to `n` zero bytes; returns how many.
    pub(crate) fn write_zeroes(&mut self, n: usize) -> usize {
        let n = n.min(self.write.left);
        let mut rest = n;
        while let Some(piece) = self.writable().first().copied()
            && rest > 0
        {
            let len = piece.iov_len.min(rest);
            // SAFETY: as for reading.
            unsafe { fill_guest(piece.iov_base.cast(), len, 0) };
            self.advance_writable(len);
            rest -= len;
        }
        n
    }

    /// Copies out and consumes as much as `to` has room for from `at` on; returns how much.
    pub(crate) fn read_segment(&mut self, to: &Segment, at: usize) -> usize {
        let room = to.len().saturating_sub(at);
        let mut done = 0;
        while let Some(piece) = self.readable().first().copied() {
            let count = piece.iov_len.min(room - done);
            if count == 0 {
                break;
            }
            // SAFETY: `count` bytes of a piece, mapped by the invariant, and of `to`, which keeps its mapping; no
            // reference into either exists.
            unsafe { copy_shared(piece.iov_base.cast(), to.as_ptr().add(at + done), count) };
            self.advance_readable(count);
            done += count;
        }
        done
    }

    /// Copies in and consumes as much of `from`, from `at` on, as there is room for; returns how much.
    pub(crate) fn write_segment(&mut self, from: &Segment, at: usize) -> usize {
        let there = from.len().saturating_sub(at);
        let mut done = 0;
        while let Some(piece) = self.writable().first().copied() {
            let count = piece.iov_len.min(there - done);
            if count == 0 {
                break;
            }
            // SAFETY: as for reading.
            unsafe { copy_shared(from.as_ptr().add(at + done), piece.iov_base.cast(), count) };
            self.advance_writable(count);
            done += count;
        }
        done
    }

    #[inline]
    pub(crate) fn advance_readable(&mut self, n: usize) {
        self.read.advance(&mut self.pieces, n);
    }

    #[inline]
    pub(crate) fn advance_writable(&mut self, n: usize) {
        self.write.advance(&mut self.pieces, n);
    }

    pub(crate) fn truncate_readable(&mut self, n: usize) {
        self.read.truncate(&mut self.pieces, n);
    }

    pub(crate) fn truncate_writable(&mut self, n: usize) {
        self.write.truncate(&mut self.pieces, n);
    }

    /// Takes the last writable byte off, as the place of a status.
    #[inline]
    pub(crate) fn split_status(&mut self) -> bool {
        let index = self.write.end.wrapping_sub(1);
        let (Some(last), Some(gpa)) = (self.writable().last().copied(), self.gpas.get(index)) else {
            return false;
        };
        if self.status.is_some() {
            return false;
        }
        let before = last.iov_len - 1;
        let head_cut = if index == self.write.at { self.write.head_cut } else { 0 };
        self.status = Some(StatusByte {
            place: last.iov_base.cast::<u8>().wrapping_add(before),
            gpa: gpa.wrapping_add((head_cut + before) as u64),
            written: false,
        });
        self.write.truncate(&mut self.pieces, self.write.left - 1);
        true
    }

    /// Writes the status; `false` if there is no place for it, `true` the first time.
    #[inline]
    pub(crate) fn set_status(&mut self, value: u8) -> bool {
        let Some(status) = &mut self.status else { return false };
        // SAFETY: a byte within a piece (see `split_status`), mapped by the invariant.
        unsafe { copy_to_guest(status.place, &[value]) };
        !std::mem::replace(&mut status.written, true)
    }

    /// Every range of guest memory that was written: address and length.
    pub(crate) fn written(&self, mut each: impl FnMut(u64, u64)) {
        let done = self.border..self.write.at;
        let pieces = self.pieces.get(done.clone()).unwrap_or(&[]);
        for (piece, gpa) in pieces.iter().zip(self.gpas.get(done).unwrap_or(&[])) {
            each(*gpa, piece.iov_len as u64);
        }
        if let Some(gpa) = self.gpas.get(self.write.at)
            && self.write.head_cut > 0
        {
            each(*gpa, self.write.head_cut as u64);
        }
        if let Some(status) = self.status
            && status.written
        {
            each(status.gpa, 1);
        }
    }

    /// Fills the writable part by `readv` or `preadv`.
    pub(crate) fn fill_from(&mut self, fd: BorrowedFd<'_>, offset: Option<u64>) -> io::Result<usize> {
        let fd = fd.as_raw_fd();
        self.transfer(offset, Self::writable, Self::advance_writable, |pieces, count, offset| match offset {
            // SAFETY: `count` pieces of mapped memory (the invariant), that the kernel may write to at any time
            // as the guest may. The descriptor is borrowed for the call.
            None => unsafe { libc::readv(fd, pieces, count) },
            // SAFETY: likewise.
            Some(offset) => unsafe { libc::preadv64(fd, pieces, count, offset) },
        })
    }

    /// Drains the readable part by `writev` or `pwritev`.
    pub(crate) fn drain_to(&mut self, fd: BorrowedFd<'_>, offset: Option<u64>) -> io::Result<usize> {
        let fd = fd.as_raw_fd();
        self.transfer(offset, Self::readable, Self::advance_readable, |pieces, count, offset| match offset {
            // SAFETY: as in `fill_from`; the kernel only reads.
            None => unsafe { libc::writev(fd, pieces, count) },
            // SAFETY: likewise.
            Some(offset) => unsafe { libc::pwritev64(fd, pieces, count, offset) },
        })
    }

    /// Repeats a vectored call until it falls short or nothing is left. An error counts only before any byte
    /// went over: later it comes again, if it lasts.
    fn transfer(
        &mut self,
        offset: Option<u64>,
        pieces: impl Fn(&Self) -> &[iovec],
        advance: impl Fn(&mut Self, usize),
        call: impl Fn(*const iovec, libc::c_int, Option<i64>) -> isize,
    ) -> io::Result<usize> {
        let mut done = 0_usize;
        loop {
            let all = pieces(self);
            let now = all.get(..PIECES_PER_CALL).unwrap_or(all);
            if now.is_empty() {
                return Ok(done);
            }
            let wanted: usize = now.iter().map(|piece| piece.iov_len).sum();
            let place = match offset.map(|offset| offset.checked_add(done as u64).map(i64::try_from)) {
                None => None,
                Some(Some(Ok(place))) => Some(place),
                Some(_) => return Err(io::ErrorKind::InvalidInput.into()),
            };
            match usize::try_from(call(now.as_ptr(), now.len() as libc::c_int, place)) {
                Ok(count) => {
                    advance(self, count);
                    done += count;
                    if count < wanted {
                        return Ok(done);
                    }
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() == io::ErrorKind::Interrupted {
                        continue;
                    }
                    return if done > 0 { Ok(done) } else { Err(error) };
                }
            }
        }
    }
}

impl Cursor {
    /// What is left, if anything: no piece of it is empty.
    #[inline]
    fn span<'a>(&self, pieces: &'a [iovec]) -> &'a [iovec] {
        let end = if self.left == 0 { self.at } else { self.end };
        pieces.get(self.at..end).unwrap_or(&[])
    }

    #[inline]
    fn advance(&mut self, pieces: &mut [iovec], n: usize) {
        let mut n = n.min(self.left);
        self.left -= n;
        while n > 0 && self.at < self.end {
            let Some(piece) = pieces.get_mut(self.at) else { return };
            if n < piece.iov_len {
                narrow_front(piece, n);
                self.head_cut += n;
                return;
            }
            n -= piece.iov_len;
            self.widen_front(pieces);
            self.at += 1;
        }
    }

    /// Keeps the first `n` bytes of what is left.
    fn truncate(&mut self, pieces: &mut [iovec], n: usize) {
        let mut excess = self.left.saturating_sub(n);
        self.left -= excess;
        while excess > 0 && self.at < self.end {
            let Some(piece) = pieces.get_mut(self.end - 1) else { return };
            if excess < piece.iov_len {
                piece.iov_len -= excess;
                self.tail_cut += excess;
                return;
            }
            excess -= piece.iov_len;
            if self.end - 1 == self.at && self.head_cut > 0 {
                // The piece was begun: it stays, empty, so that what was consumed of it is still known.
                self.tail_cut += piece.iov_len;
                piece.iov_len = 0;
                return;
            }
            self.widen_back(pieces);
            self.end -= 1;
        }
    }

    #[inline]
    fn widen_front(&mut self, pieces: &mut [iovec]) {
        if self.head_cut > 0
            && let Some(piece) = pieces.get_mut(self.at)
        {
            piece.iov_base = piece.iov_base.cast::<u8>().wrapping_sub(self.head_cut).cast();
            piece.iov_len += self.head_cut;
            self.head_cut = 0;
        }
    }

    fn widen_back(&mut self, pieces: &mut [iovec]) {
        if self.tail_cut > 0
            && let Some(piece) = pieces.get_mut(self.end.wrapping_sub(1))
        {
            piece.iov_len += self.tail_cut;
            self.tail_cut = 0;
        }
    }
}

#[inline]
fn narrow_front(piece: &mut iovec, n: usize) {
    piece.iov_base = piece.iov_base.cast::<u8>().wrapping_add(n).cast();
    piece.iov_len -= n;
}
