//! A digest that the writer in the guest and the host both compute: one of what
//! must be on the disk, the other of what is. Compiled into both programs;
//! computes only.

/// Bytes in a block: the unit that is written, and has a generation.
pub(crate) const BLOCK: usize = 4096;

/// A digest of content that arrives in pieces of whole words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Digest(u64);

impl Digest {
    /// Of nothing.
    pub(crate) fn new() -> Self {
        Self(0x6f75_7462_6f61_7264)
    }

    /// Takes in more content.
    pub(crate) fn update(&mut self, content: &[u8]) {
        for word in content.chunks(8) {
            let mut bytes = [0; 8];
            for (to, from) in bytes.iter_mut().zip(word) {
                *to = *from;
            }
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(bytes)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    /// The digest of all that came in.
    pub(crate) fn value(self) -> u64 {
        mix(self.0)
    }
}

/// Spreads every bit of a number over all of it (splitmix64's finaliser).
pub(crate) fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
