//! Offloads done here, for whoever does not take them: a frame becomes frames as they go over a wire.
//!
//! Each segment is put together in place: its headers are written right before its payload, over payload that was given
//! out already. So nothing is allocated, and nothing but headers is copied.

use zerocopy::FromBytes;

use crate::checksum::Sum;
use crate::layers::MAX_HEADERS;
use crate::offload::{Checksum, Kind, Offload, Segments};
use crate::wire::{
    Ipv4, Ipv6, MORE_FRAGMENTS, PROTOCOL_TCP, PROTOCOL_UDP, TCP_CWR, TCP_FIN, TCP_PSH, Tcp, Udp,
};

/// Does what `offload` leaves to do for `frame`, the one that it was checked for, and gives out what comes of it, in
/// order. Afterwards `frame` is of no use.
pub fn plain(offload: &Offload, frame: &mut [u8], mut each: impl FnMut(&[u8])) {
    let done = match *offload {
        Offload::None => Some(()),
        Offload::Checksum(checksum) => complete(frame, checksum),
        Offload::Segments(segments) => return cut(frame, &segments, each).unwrap_or_default(),
    };
    if done.is_some() {
        each(frame);
    }
}

/// Sums up from where the driver has left the sum of the pseudo header (VIRTIO 1.3, 5.1.6.2).
fn complete(frame: &mut [u8], Checksum { start, offset }: Checksum) -> Option<()> {
    let covered = frame.get_mut(usize::from(start)..)?;
    let checksum = Sum::default().plus(covered).checksum();
    let (place, _) = covered.get_mut(usize::from(offset)..)?.split_first_chunk_mut()?;
    *place = checksum.to_bytes();
    Some(())
}

/// `None`, and less or nothing given out, if the frame is another than the one that was checked.
fn cut(frame: &mut [u8], segments: &Segments, mut each: impl FnMut(&[u8])) -> Option<()> {
    let size = usize::from(segments.size);
    let repeated = usize::from(segments.repeated());
    if segments.kind == Kind::Fragments {
        // One checksum for all of them, in the first.
        transport(frame.get_mut(usize::from(segments.l3_at)..)?, segments)?;
    }
    let mut headers = [0; MAX_HEADERS];
    let headers = headers.get_mut(..repeated)?;
    headers.copy_from_slice(frame.get(..repeated)?);

    let payload = frame.len() - repeated;
    let mut from = 0;
    while from < payload {
        let len = size.min(payload - from);
        let segment = frame.get_mut(from..from + repeated + len)?;
        segment.get_mut(..repeated)?.copy_from_slice(headers);
        let place = Place { from, number: from / size, is_last: from + len == payload };
        let packet = segment.get_mut(usize::from(segments.l3_at)..)?;
        finish(packet, segments, &place)?;
        each(segment);
        from += len;
    }
    Some(())
}

/// Which segment it is.
struct Place {
    /// How much payload is before it, in bytes.
    from: usize,
    number: usize,
    is_last: bool,
}

/// Makes the headers say what is right for this segment. `packet` is all of it behind the Ethernet header.
fn finish(packet: &mut [u8], segments: &Segments, place: &Place) -> Option<()> {
    if segments.kind != Kind::Fragments {
        transport_of_segment(packet, segments, place)?;
        transport(packet, segments)?;
    }
    let len = packet.len();
    match segments.kind {
        Kind::Tcp6 | Kind::Udp6 => {
            let (ip, _) = Ipv6::mut_from_prefix(packet).ok()?;
            ip.payload_len = u16::try_from(len.checked_sub(Ipv6::LEN)?).ok()?.into();
        }
        Kind::Tcp4 | Kind::Udp4 | Kind::Fragments => {
            let options = packet.get_mut(..usize::from(segments.l4_at - segments.l3_at))?;
            let (ip, _) = Ipv4::mut_from_prefix(options).ok()?;
            ip.total_len = u16::try_from(len).ok()?.into();
            if segments.kind == Kind::Fragments {
                let more = if place.is_last { 0 } else { MORE_FRAGMENTS };
                ip.fragment = (u16::try_from(place.from / 8).ok()? | more).into();
            } else {
                // No more than MAX_SEGMENTS.
                ip.identification = ip.identification.get().wrapping_add(place.number as u16).into();
            }
            ip.checksum = 0.into();
            let checksum = Sum::default().plus(options).checksum();
            let (ip, _) = Ipv4::mut_from_prefix(options).ok()?;
            ip.checksum = checksum;
        }
    }
    Some(())
}

/// What tells one TCP segment or datagram from the next, its checksum aside.
fn transport_of_segment(packet: &mut [u8], segments: &Segments, place: &Place) -> Option<()> {
    let behind = packet.get_mut(usize::from(segments.l4_at - segments.l3_at)..)?;
    if matches!(segments.kind, Kind::Tcp4 | Kind::Tcp6) {
        let (tcp, _) = Tcp::mut_from_prefix(behind).ok()?;
        tcp.sequence = tcp.sequence.get().wrapping_add(place.from as u32).into();
        if !place.is_last {
            tcp.flags &= !(TCP_FIN | TCP_PSH);
        }
        if place.from > 0 {
            // RFC 3168, 6.1.2: it is said once.
            tcp.flags &= !TCP_CWR;
        }
    }
    Some(())
}

/// Writes the length of a datagram, and the checksum of TCP or UDP from the addresses on: what the driver left in its
/// place is of a length that is no longer true. `packet` is all of it behind the Ethernet header.
fn transport(packet: &mut [u8], segments: &Segments) -> Option<()> {
    let (headers, behind) = packet.split_at_mut_checked(usize::from(segments.l4_at - segments.l3_at))?;
    let len = u32::try_from(behind.len()).ok()?;
    let addresses: &[u8] = match segments.kind {
        Kind::Tcp4 | Kind::Udp4 | Kind::Fragments => &Ipv4::ref_from_prefix(headers).ok()?.0.addresses,
        Kind::Tcp6 | Kind::Udp6 => &Ipv6::ref_from_prefix(headers).ok()?.0.addresses,
    };
    let protocol = match segments.kind {
        Kind::Tcp4 | Kind::Tcp6 => PROTOCOL_TCP,
        Kind::Fragments | Kind::Udp4 | Kind::Udp6 => {
            let (udp, _) = Udp::mut_from_prefix(behind).ok()?;
            udp.len = u16::try_from(len).ok()?.into();
            PROTOCOL_UDP
        }
    };
    let place = usize::from(segments.kind.checksum_offset());
    let place = place..place + 2;
    behind.get_mut(place.clone())?.fill(0);
    let pseudo = Sum::default().plus(addresses).plus_number(len).plus_number(protocol.into());
    let checksum = pseudo.plus(behind).checksum();
    behind.get_mut(place)?.copy_from_slice(&checksum.to_bytes());
    Some(())
}
