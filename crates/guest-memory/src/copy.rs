//! Copies between guest memory and our own. The guest may write at the same time: what is read is then any mix of
//! old and new bytes, and must be validated after it was copied, never before.
#![allow(unsafe_code)] // raw addresses of guest memory

use std::sync::atomic::{Ordering, compiler_fence};

use vm_memory::VolatileSlice;

/// Copies of up to so many bytes are made in registers.
const SHORT: usize = 128;
/// Bytes that one step of a fill writes.
const FILL_BLOCK: usize = 4096;

/// Copies guest memory at `src` into `dst`.
///
/// # Safety
/// `src` is the start of at least `dst.len()` bytes of mapped guest memory, which stay mapped during the call (the
/// caller holds their [`MemoryMap`](crate::MemoryMap)), and no part of which is borrowed by Rust code.
#[inline]
pub unsafe fn copy_from_guest(src: *const u8, dst: &mut [u8]) {
    if dst.len() <= SHORT {
        // SAFETY: `dst` is borrowed, the rest is the caller's promise.
        return unsafe { copy_short(src, dst.as_mut_ptr(), dst.len()) };
    }
    // SAFETY: length and life are the caller's promise. Other users of the memory, in this process, go through
    // volatile or atomic accesses too, since no reference into it exists. The slice is only read from.
    let guest = unsafe { VolatileSlice::new(src.cast_mut(), dst.len()) };
    guest.copy_to(dst);
}

/// Copies a value out of guest memory at `src`, which need not be aligned, as [`copy_from_guest`] does, but without a call:
/// in registers, mostly.
///
/// # Safety
/// As of [`copy_from_guest`], for the length of a `T`; and any bytes make a `T`.
#[inline]
pub unsafe fn read_from_guest<T>(src: *const u8) -> T {
    // SAFETY: length, life and bytes are the caller's promise.
    let value = unsafe { src.cast::<T>().read_unaligned() };
    // What is looked at from here on is this copy: the compiler may not read the original again.
    compiler_fence(Ordering::SeqCst);
    value
}

/// Copies `src` into guest memory at `dst`.
///
/// # Safety
/// `dst` is the start of at least `src.len()` bytes of mapped guest memory, which stay mapped during the call (the
/// caller holds their [`MemoryMap`](crate::MemoryMap)), and no part of which is borrowed by Rust code.
#[inline]
pub unsafe fn copy_to_guest(dst: *mut u8, src: &[u8]) {
    if src.len() <= SHORT {
        // SAFETY: `src` is borrowed, the rest is the caller's promise.
        return unsafe { copy_short(src.as_ptr(), dst, src.len()) };
    }
    // SAFETY: as in `copy_from_guest`.
    let guest = unsafe { VolatileSlice::new(dst, src.len()) };
    guest.copy_from(src);
}

/// Copies `len` bytes of shared memory from `src` to `dst`; the two may overlap.
///
/// # Safety
/// Both are the start of at least `len` bytes of mapped guest or otherwise shared memory, which stay mapped during
/// the call (the caller holds what maps them), and no part of which is borrowed by Rust code.
#[inline]
pub unsafe fn copy_shared(src: *const u8, dst: *mut u8, len: usize) {
    if len <= SHORT {
        // SAFETY: the caller's promise.
        return unsafe { copy_short(src, dst, len) };
    }
    // SAFETY: as in `copy_from_guest`, for both sides.
    let (src, dst) = unsafe { (VolatileSlice::new(src.cast_mut(), len), VolatileSlice::new(dst, len)) };
    src.copy_to_volatile_slice(dst);
}

/// Copies a value into guest memory at `dst`, which need not be aligned, as [`copy_to_guest`] does, but in pieces that the
/// compiler knows.
///
/// # Safety
/// As of [`copy_to_guest`], for the length of a `T`, which has no padding.
#[inline]
pub unsafe fn write_to_guest<T: Copy>(dst: *mut u8, value: &T) {
    // SAFETY: length and life are the caller's promise.
    unsafe { dst.cast::<T>().write_unaligned(*value) };
}

/// Copies a few bytes as two blocks that overlap as far as need be, in registers: a call would cost more than they do.
/// Both are read before the first is written.
///
/// # Safety
/// `len` is at most [`SHORT`]; the rest as of [`copy_shared`].
#[inline]
unsafe fn copy_short(src: *const u8, dst: *mut u8, len: usize) {
    macro_rules! blocks {
        ($bytes:literal) => {{
            let behind = len - $bytes;
            // SAFETY: `len` is between the length of a block and twice that, so both lie within the caller's ranges.
            // Blocks of bytes need no alignment.
            unsafe {
                let first = src.cast::<[u8; $bytes]>().read();
                let last = src.add(behind).cast::<[u8; $bytes]>().read();
                dst.cast::<[u8; $bytes]>().write(first);
                dst.add(behind).cast::<[u8; $bytes]>().write(last);
            }
        }};
    }
    match len {
        65.. => blocks!(64),
        33.. => blocks!(32),
        17.. => blocks!(16),
        9.. => blocks!(8),
        5.. => blocks!(4),
        2.. => blocks!(2),
        1 => blocks!(1),
        0 => {}
    }
}

/// Has the processor fetch the cache line at `place`, which will be accessed soon. A hint: nothing is accessed by the
/// program, whatever the address.
#[inline]
pub fn prefetch(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetches do not fault, and have no effect that the program could see. Part of SSE, which each x86-64
    // processor has.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// [`prefetch`] of a line that will be written to soon: other processors give up their copies of it right away.
#[inline]
pub fn prefetch_for_write(place: *const u8) {
    // The intrinsics leave that intent out for processors from before 2014, for which the instruction does nothing.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as of `prefetch`.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: likewise; part of the base instructions.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = place;
}

/// Sets `len` bytes of guest memory at `dst` to `byte`.
///
/// # Safety
/// `dst` is the start of at least `len` bytes of mapped guest memory, which stay mapped during the call (the caller
/// holds their [`MemoryMap`](crate::MemoryMap)), and no part of which is borrowed by Rust code.
pub unsafe fn fill_guest(dst: *mut u8, len: usize, byte: u8) {
    let block = [byte; FILL_BLOCK];
    let mut done = 0;
    while done < len {
        let step = block.len().min(len - done);
        // SAFETY: `done + step <= len`, so both stay within the caller's range.
        unsafe { copy_to_guest(dst.add(done), block.get(..step).unwrap_or(&[])) };
        done += step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_all_small_lengths_and_alignments_keep_their_neighbours() {
        for len in 0..200 {
            for at in 0..9 {
                let mut guest = vec![0xee_u8; 224];
                let ours: Vec<u8> = (0..len).map(|i| i as u8 + 1).collect();
                let start = guest.as_mut_ptr();
                let mut back = vec![0; len];
                // SAFETY: 9 + 200 < 224.
                unsafe {
                    copy_to_guest(start.add(at), &ours);
                    copy_from_guest(start.add(at), &mut back);
                }
                assert_eq!(back, ours);
                assert!(guest[..at].iter().chain(&guest[at + len..]).all(|&byte| byte == 0xee));
            }
        }
    }

    #[test]
    fn values_are_read_at_any_alignment() {
        let guest: Vec<u8> = (0..40).collect();
        for at in 0..9 {
            // SAFETY: 9 + 24 < 40, and any bytes make integers.
            let (array, word): ([u64; 3], u16) =
                unsafe { (read_from_guest(guest.as_ptr().add(at)), read_from_guest(guest.as_ptr().add(at))) };
            assert_eq!(array.map(u64::to_ne_bytes).as_flattened(), &guest[at..at + 24]);
            assert_eq!(word.to_ne_bytes(), guest[at..at + 2]);
        }
    }

    #[test]
    fn fill_of_any_length_writes_exactly_that() {
        for len in [0, 1, 7, FILL_BLOCK - 1, FILL_BLOCK, FILL_BLOCK + 1, 3 * FILL_BLOCK + 5] {
            let mut guest = vec![1_u8; len + 1];
            // SAFETY: the buffer is one byte longer.
            unsafe { fill_guest(guest.as_mut_ptr(), len, 9) };
            assert!(guest[..len].iter().all(|&byte| byte == 9));
            assert_eq!(guest[len], 1);
        }
    }
}
