//! The buffers of one chain as pieces of this process's memory, in the form that vectored system calls take, with
//! the two cursors that requests are read and answered through. The guest is the author of every address in here;
//! they were translated when they were added, and are never looked up again.
#![allow(unsafe_code)] // copies from and to raw addresses, and system calls on them

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::iovec;
use outboard_guest_memory::{
    MemoryError, MemoryMap, Segment, copy_from_guest, copy_shared, copy_to_guest, fill_guest,
    read_from_guest, write_to_guest,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::error::RingError;
use crate::reach::Reach;
use crate::ring::Descriptor;

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
    pieces: Vec<iovec>,
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
    written: bool,
}

/// A chain's buffers while they are added: readable ones first, then writable ones.
pub(crate) struct Filling<'a> {
    buffers: &'a mut Buffers,
    reach: &'a Reach,
    readable: u64,
    writable: u64,
    border: usize,
    turned: bool,
}

// SAFETY: the raw pointers go into guest memory, which any thread may access by copies; `mem` travels along.
unsafe impl Send for Buffers {}

impl Buffers {
    pub(crate) fn new(mem: MemoryMap) -> Self {
        Self {
            mem,
            pieces: Vec::new(),
            border: 0,
            read: Cursor::default(),
            write: Cursor::default(),
            status: None,
        }
    }

    /// Made ready for the next chain, which will be in `mem`.
    #[inline]
    pub(crate) fn recycle(&mut self, mem: &MemoryMap) {
        if self.pieces.capacity() > KEPT_PIECES {
            self.pieces.clear();
            self.pieces.shrink_to(KEPT_PIECES);
        }
        if !self.mem.same_as(mem) {
            self.pieces.clear();
            self.mem = mem.clone();
        }
    }

    /// The same buffers in another memory table; the cursors go back to their starts.
    ///
    /// # Errors
    /// They are not all there. They stay where they were.
    pub(crate) fn remap(&mut self, mem: &MemoryMap) -> Result<(), MemoryError> {
        self.rewind();
        let (mut pieces, mut border) = (Vec::with_capacity(self.pieces.len()), 0);
        for (at, piece) in self.pieces.iter().enumerate() {
            if at == self.border {
                border = pieces.len();
            }
            let gpa = self.mem.guest_address(piece.iov_base.cast()).unwrap_or(u64::MAX);
            mem.pieces(gpa, piece.iov_len as u64, |piece| pieces.push(piece.iovec()))?;
        }
        if self.border == self.pieces.len() {
            border = pieces.len();
        }
        let (readable, writable) = (self.read.left, self.write.left);
        (self.pieces, self.mem) = (pieces, mem.clone());
        self.seal(border, readable, writable);
        Ok(())
    }

    /// Whether all is in one piece, as a packet mostly is, and a request to a disk is not.
    #[inline]
    pub(crate) fn is_one_piece(&self) -> bool {
        self.pieces.len() == 1
    }

    /// Begins to add the buffers of a chain, which are in the memory that these were made ready for.
    #[inline]
    pub(crate) fn fill<'a>(&'a mut self, reach: &'a Reach) -> Filling<'a> {
        debug_assert!(self.mem.same_as(reach.mem()));
        self.pieces.clear();
        Filling { buffers: self, reach, readable: 0, writable: 0, border: 0, turned: false }
    }

    /// Both cursors back to their starts, as sealed.
    pub(crate) fn rewind(&mut self) {
        for cursor in [&mut self.read, &mut self.write] {
            cursor.widen_front(&mut self.pieces);
            cursor.widen_back(&mut self.pieces);
        }
        let bytes = |pieces: Option<&[iovec]>| pieces.unwrap_or(&[]).iter().map(|piece| piece.iov_len).sum();
        let (readable, writable) = (self.pieces.get(..self.border), self.pieces.get(self.border..));
        let (readable, writable) = (bytes(readable), bytes(writable));
        self.seal(self.border, readable, writable);
    }

    /// Both cursors at their starts, over pieces that are whole.
    #[inline]
    fn seal(&mut self, border: usize, readable: usize, writable: usize) {
        self.border = border;
        self.read = Cursor { at: 0, end: border, left: readable, head_cut: 0, tail_cut: 0 };
        self.write = Cursor { at: border, end: self.pieces.len(), left: writable, head_cut: 0, tail_cut: 0 };
        self.status = None;
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

    /// As [`read`](Self::read), from the device-writable part.
    pub(crate) fn read_writable(&mut self, out: &mut [u8]) {
        let mut rest = out;
        while let Some(piece) = self.writable().first().copied() {
            let len = piece.iov_len.min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            // SAFETY: as in `read`.
            unsafe { copy_from_guest(piece.iov_base.cast(), now) };
            self.advance_writable(len);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
    }

    /// Copies out and consumes a value; what is left must suffice, else its end is zeroes.
    #[inline]
    pub(crate) fn read_value<T: FromBytes>(&mut self) -> T {
        if let Some(value) = self.peek_value() {
            self.advance_readable(size_of::<T>());
            return value;
        }
        let mut value = MaybeUninit::<T>::zeroed();
        let start = value.as_mut_ptr().cast::<u8>();
        // SAFETY: the bytes of `value`, all of them initialised with zeroes.
        self.read(unsafe { std::slice::from_raw_parts_mut(start, size_of::<T>()) });
        // SAFETY: initialised, and any bytes make a `T`.
        unsafe { value.assume_init() }
    }

    /// Copies out a value, as nearly always, of a length that the compiler knows; `None` if it is not in one piece.
    #[inline]
    pub(crate) fn peek_value<T: FromBytes>(&self) -> Option<T> {
        let piece = self.readable().first().filter(|piece| piece.iov_len >= size_of::<T>())?;
        // SAFETY: as in `read`, and any bytes make a `T`.
        Some(unsafe { read_from_guest(piece.iov_base.cast()) })
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

    /// Copies in and consumes a value and `data` behind it; what is left must suffice, else less is copied.
    #[inline]
    pub(crate) fn write_with<T: IntoBytes + Immutable + Copy>(&mut self, value: &T, data: &[u8]) {
        let (front, len) = (size_of::<T>(), size_of::<T>() + data.len());
        match self.writable().first().copied() {
            // As nearly always.
            Some(piece) if piece.iov_len >= len => {
                let place = piece.iov_base.cast::<u8>();
                // SAFETY: `front` bytes of a piece, and those behind them, as for reading.
                unsafe {
                    write_to_guest(place, value);
                    copy_to_guest(place.add(front), data);
                }
                self.advance_writable(len);
            }
            _ => {
                self.write(value.as_bytes());
                self.write(data);
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

    /// Copies up to `len` bytes of what is left to read to what is left to write in `to`, and consumes both; returns
    /// how many.
    #[inline]
    pub(crate) fn copy_to(&mut self, to: &mut Self, len: usize) -> usize {
        let len = len.min(self.read.left).min(to.write.left);
        let mut rest = len;
        while rest > 0
            && let Some(from) = self.readable().first().copied()
            && let Some(into) = to.writable().first().copied()
        {
            let count = from.iov_len.min(into.iov_len).min(rest);
            // SAFETY: `count` bytes of a piece on either side, mapped by the invariant; no reference into guest memory
            // exists.
            unsafe { copy_shared(from.iov_base.cast(), into.iov_base.cast(), count) };
            self.advance_readable(count);
            to.advance_writable(count);
            rest -= count;
        }
        len - rest
    }

    /// Copies `data` over what was consumed of the writable part, from byte `at` of it on. Fails with the length of
    /// that part if it ends before.
    pub(crate) fn rewrite(&mut self, at: usize, data: &[u8]) -> Result<(), usize> {
        let there = self.consumed().map(|(_, len)| len).sum();
        if at.saturating_add(data.len()) > there {
            return Err(there);
        }
        let (mut skip, mut rest) = (at, data);
        for (place, len) in self.consumed() {
            let skipped = skip.min(len);
            skip -= skipped;
            let (now, later) = rest.split_at((len - skipped).min(rest.len()));
            // SAFETY: `now.len()` bytes of a piece behind the first `skipped`, mapped by the invariant.
            unsafe { copy_to_guest(place.wrapping_add(skipped), now) };
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// What the cursor of the writable part has gone over: place and length of each piece.
    fn consumed(&self) -> impl Iterator<Item = (*mut u8, usize)> {
        let whole = self.pieces.get(self.border..self.write.at).unwrap_or(&[]);
        let whole = whole.iter().map(|piece| (piece.iov_base.cast::<u8>(), piece.iov_len));
        let begun = self.pieces.get(self.write.at).filter(|_| self.write.head_cut > 0);
        whole.chain(begun.map(|piece| {
            (piece.iov_base.cast::<u8>().wrapping_sub(self.write.head_cut), self.write.head_cut)
        }))
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
        let Some(last) = self.writable().last().copied().filter(|_| self.status.is_none()) else {
            return false;
        };
        let place = last.iov_base.cast::<u8>().wrapping_add(last.iov_len - 1);
        self.status = Some(StatusByte { place, written: false });
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
        let mut report = |place: *const u8, len: usize| {
            if let Some(gpa) = self.mem.guest_address(place) {
                each(gpa, len as u64);
            }
        };
        for (place, len) in self.consumed() {
            report(place, len);
        }
        if let Some(status) = self.status
            && status.written
        {
            report(status.place, 1);
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

impl Filling<'_> {
    /// Appends what a descriptor names; a length of 0 adds nothing.
    #[inline(always)] // 83 against 67 ns for a request with an indirect table (examples/ring_speed.rs)
    pub(crate) fn push(&mut self, descriptor: Descriptor) -> Result<(), Box<RingError>> {
        let Descriptor { addr, len, .. } = descriptor;
        let bytes = self.readable + self.writable + u64::from(len);
        if bytes > u64::from(u32::MAX) {
            return Err(RingError::TooLong { bytes }.into());
        }
        match self.reach.near(descriptor) {
            Some(piece) => self.buffers.pieces.push(piece.iovec()),
            None => self.push_elsewhere(descriptor)?,
        }
        if descriptor.has(Descriptor::WRITE) {
            self.turned = true;
            self.writable += u64::from(len);
        } else if self.turned {
            return Err(RingError::Order { addr }.into());
        } else {
            self.readable += u64::from(len);
            self.border = self.buffers.pieces.len();
        }
        Ok(())
    }

    /// Ends the adding: both cursors stand at their starts.
    #[inline]
    pub(crate) fn seal(self) {
        // Together no more than 2^32 - 1.
        self.buffers.seal(self.border, self.readable as usize, self.writable as usize);
    }

    /// Adds a buffer that is not, or not as a whole, in the region of the one before.
    #[cold]
    fn push_elsewhere(&mut self, descriptor: Descriptor) -> Result<(), Box<RingError>> {
        let Descriptor { addr, len, .. } = descriptor;
        let pieces = &mut self.buffers.pieces;
        let added = self.reach.far(descriptor, |piece| pieces.push(piece.iovec()));
        added.map_err(|cause| RingError::BufferUnmapped { addr, len, cause })?;
        if pieces.len() > MAX_PIECES {
            return Err(RingError::TooManyPieces { limit: MAX_PIECES }.into());
        }
        Ok(())
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
