//! What a network is told when a machine has moved: a request of RFC 903, to all, which switches learn from and nobody
//! answers.

/// The length of the frame in bytes: the shortest that goes over a wire, its checksum aside.
const LEN: usize = 60;

/// Says that `mac` is where the frame comes from.
#[must_use]
pub fn rarp(mac: [u8; 6]) -> [u8; LEN] {
    // Ethernet; IPv4, with addresses of 6 and of 4 bytes; a request "reverse".
    const KIND: [u8; 10] = [0x80, 0x35, 0, 1, 0x08, 0x00, 6, 4, 0, 3];
    let whose = [&mac[..], &[0; 4]];
    let parts = [&[0xff; 6], &mac[..], &KIND].into_iter().chain(whose).chain(whose);
    let mut frame = [0; LEN];
    frame.iter_mut().zip(parts.flatten()).for_each(|(place, byte)| *place = *byte);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_is_as_qemu_sends_it() {
        let frame = rarp([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        let front = "ffffffffffff52540012345680350001080006040003525400123456000000005254001234560000 0000";
        let front: String = front.split(' ').collect();
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, front + &"00".repeat(18));
    }
}
