//! What a driver's command says (VIRTIO 1.3, 5.1.6.5). Pure. The bytes are the guest's: of wrong length, out of range, and
//! about features that were never agreed.

use std::sync::Arc;

use outboard_device::defs::net::{
    F_CTRL_GUEST_OFFLOADS, F_CTRL_MAC_ADDR, F_CTRL_RX, F_CTRL_RX_EXTRA, F_CTRL_VLAN, F_GUEST_ANNOUNCE,
    F_HASH_REPORT, F_MQ, F_NOTF_COAL, F_RSS, F_VQ_NOTF_COAL,
};
use outboard_device::defs::net_control::{
    Coalescing, Command, HashConfig, QueueCoalescing, RssConfig, RssKey,
};
use outboard_device::{Features, QueueId};
use outboard_frames::KEY_LEN;
use zerocopy::FromBytes;
use zerocopy::little_endian::{U16, U32, U64};

use crate::coalescing::Which;
use crate::config::GUEST_OFFLOADS;
use crate::filter::{Mode, Table, VLANS};
use crate::steer::{Hashing, MAX_TABLE, Spread, TYPES};

/// A command that can be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Mode(Mode, bool),
    Tables {
        unicasts: Table,
        multicasts: Table,
    },
    Address([u8; 6]),
    Vlan {
        id: u16,
        passes: bool,
    },
    Announced,
    Pairs(u16),
    Spread(Hashing, Spread),
    Hashing(Hashing),
    /// Feature bits.
    Offloads(u64),
    /// When a queue's driver is called.
    Calls(Which, Coalescing),
    /// Asks for that.
    CallsOf(QueueId),
}

/// Why a command is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("there is no such command")]
    Unknown,
    #[error("its feature was not agreed")]
    NotAgreed,
    #[error("it is too short or too long")]
    Length,
    #[error("a value is out of range")]
    Range,
    #[error("it is about a queue that is not enabled")]
    NotEnabled,
}

/// Reads a command of a driver that has agreed to these features, to a device of so many pairs of queues.
///
/// # Errors
/// It is to be answered with an error, and nothing else.
pub(crate) fn decode(bytes: &[u8], agreed: Features, pairs: u16) -> Result<Order, Wrong> {
    let (command, rest) = Command::read_from_prefix(bytes).map_err(|_| Wrong::Length)?;
    let needs = |feature: u64| if agreed.has(feature) { Ok(()) } else { Err(Wrong::NotAgreed) };
    let mode = |mode, feature| {
        needs(feature)?;
        match exactly::<u8>(rest)? {
            on @ (0 | 1) => Ok(Order::Mode(mode, on == 1)),
            _ => Err(Wrong::Range),
        }
    };
    let vlan = |passes| {
        needs(F_CTRL_VLAN)?;
        let id = exactly::<U16>(rest)?.get();
        if id < VLANS { Ok(Order::Vlan { id, passes }) } else { Err(Wrong::Range) }
    };
    match command {
        Command::RX_PROMISC => mode(Mode::Promiscuous, F_CTRL_RX),
        Command::RX_ALLMULTI => mode(Mode::AllMulticasts, F_CTRL_RX),
        Command::RX_ALLUNI => mode(Mode::AllUnicasts, F_CTRL_RX_EXTRA),
        Command::RX_NOMULTI => mode(Mode::NoMulticasts, F_CTRL_RX_EXTRA),
        Command::RX_NOUNI => mode(Mode::NoUnicasts, F_CTRL_RX_EXTRA),
        Command::RX_NOBCAST => mode(Mode::NoBroadcasts, F_CTRL_RX_EXTRA),
        Command::MAC_TABLE_SET => {
            needs(F_CTRL_RX)?;
            let (unicasts, rest) = table(rest)?;
            let (multicasts, rest) = table(rest)?;
            if rest.is_empty() { Ok(Order::Tables { unicasts, multicasts }) } else { Err(Wrong::Length) }
        }
        Command::MAC_ADDR_SET => {
            needs(F_CTRL_MAC_ADDR)?;
            let address = exactly::<[u8; 6]>(rest)?;
            let is_of_one = address != [0; 6] && address.first().is_some_and(|first| first & 1 == 0);
            if is_of_one { Ok(Order::Address(address)) } else { Err(Wrong::Range) }
        }
        Command::VLAN_ADD => vlan(true),
        Command::VLAN_DEL => vlan(false),
        Command::ANNOUNCE_ACK => {
            needs(F_GUEST_ANNOUNCE)?;
            if rest.is_empty() { Ok(Order::Announced) } else { Err(Wrong::Length) }
        }
        Command::MQ_VQ_PAIRS_SET => {
            needs(F_MQ)?;
            let wanted = exactly::<U16>(rest)?.get();
            if (1..=pairs).contains(&wanted) { Ok(Order::Pairs(wanted)) } else { Err(Wrong::Range) }
        }
        Command::MQ_RSS_CONFIG => {
            needs(F_RSS)?;
            spread(rest, pairs)
        }
        Command::MQ_HASH_CONFIG => {
            needs(F_HASH_REPORT)?;
            let (config, rest) = prefix::<HashConfig>(rest)?;
            hashing(config.hash_types, config.hash_key_length, rest).map(Order::Hashing)
        }
        Command::GUEST_OFFLOADS_SET => {
            needs(F_CTRL_GUEST_OFFLOADS)?;
            let wanted = exactly::<U64>(rest)?.get();
            if wanted & !(agreed.0 & GUEST_OFFLOADS) == 0 {
                Ok(Order::Offloads(wanted))
            } else {
                Err(Wrong::Range)
            }
        }
        Command::NOTF_COAL_TX_SET => {
            needs(F_NOTF_COAL)?;
            Ok(Order::Calls(Which::Sending, exactly(rest)?))
        }
        Command::NOTF_COAL_RX_SET => {
            needs(F_NOTF_COAL)?;
            Ok(Order::Calls(Which::Receiving, exactly(rest)?))
        }
        Command::NOTF_COAL_VQ_SET => {
            needs(F_VQ_NOTF_COAL)?;
            let QueueCoalescing { queue, coalescing, .. } = exactly(rest)?;
            Ok(Order::Calls(Which::One(of_packets(queue, pairs)?), coalescing))
        }
        Command::NOTF_COAL_VQ_GET => {
            needs(F_VQ_NOTF_COAL)?;
            let (queue, rest) = prefix::<U16>(rest)?;
            // The rest of the structure is the device's to write, but a driver may send it as well.
            let whole = size_of::<QueueCoalescing>() - size_of::<U16>();
            if rest.len() == size_of::<U16>() || rest.len() == whole {
                of_packets(queue, pairs).map(Order::CallsOf)
            } else {
                Err(Wrong::Length)
            }
        }
        _ => Err(Wrong::Unknown),
    }
}

/// A queue that packets go through.
fn of_packets(queue: U16, pairs: u16) -> Result<QueueId, Wrong> {
    let queue = queue.get();
    if queue / 2 < pairs { Ok(QueueId(queue)) } else { Err(Wrong::Range) }
}

fn exactly<T: FromBytes>(bytes: &[u8]) -> Result<T, Wrong> {
    T::read_from_bytes(bytes).map_err(|_| Wrong::Length)
}

fn prefix<T: FromBytes>(bytes: &[u8]) -> Result<(T, &[u8]), Wrong> {
    T::read_from_prefix(bytes).map_err(|_| Wrong::Length)
}

/// How packets are spread over so many pairs: the table, and the key.
fn spread(bytes: &[u8], pairs: u16) -> Result<Order, Wrong> {
    let (config, rest) = prefix::<RssConfig>(bytes)?;
    let len = usize::from(config.indirection_table_mask.get()) + 1;
    if !len.is_power_of_two() || len > MAX_TABLE.into() {
        return Err(Wrong::Range);
    }
    let (table, rest) = <[U16]>::ref_from_prefix_with_elems(rest, len).map_err(|_| Wrong::Length)?;
    let (key, rest) = prefix::<RssKey>(rest)?;
    let hashing = hashing(config.hash_types, key.hash_key_length, rest)?;
    let table: Arc<[u16]> = table.iter().map(|entry| entry.get()).collect();
    let unclassified = config.unclassified_queue.get();
    let are_there = table.iter().all(|pair| *pair < pairs) && unclassified < pairs;
    if !are_there || !(1..=pairs).contains(&key.max_tx_vq.get()) {
        return Err(Wrong::Range);
    }
    Ok(Order::Spread(hashing, Spread { table, unclassified }))
}

/// A key of `len` bytes is at the end of its command. A shorter one than there could be has zeroes behind it. Linux sends a
/// byte more, since it has a structure for this that the compiler fills up.
fn hashing(types: U32, len: u8, bytes: &[u8]) -> Result<Hashing, Wrong> {
    let len = usize::from(len);
    let sent = bytes.get(..len).filter(|_| bytes.len() <= len + 1).ok_or(Wrong::Length)?;
    let types = types.get();
    let mut key = [0; KEY_LEN];
    let place = key.get_mut(..len).filter(|_| types & !TYPES == 0).ok_or(Wrong::Range)?;
    place.copy_from_slice(sent);
    Ok(Hashing { types, key })
}

/// A number of addresses, and so many addresses; and what follows.
fn table(bytes: &[u8]) -> Result<(Table, &[u8]), Wrong> {
    let (count, rest) = U32::read_from_prefix(bytes).map_err(|_| Wrong::Length)?;
    let len = usize::try_from(count.get()).ok().and_then(|count| count.checked_mul(6));
    let (addresses, rest) = len.and_then(|len| rest.split_at_checked(len)).ok_or(Wrong::Length)?;
    let (addresses, _) = addresses.as_chunks::<6>();
    Ok((Table::new(addresses), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_device::defs::net::{F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_USO4};
    use proptest::prelude::*;

    const ALL: Features = Features(u64::MAX);
    const ONE: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn bytes(command: Command, rest: &[&[u8]]) -> Vec<u8> {
        [&[command.class, command.number][..], &rest.concat()].concat()
    }

    fn decoded(command: Command, rest: &[&[u8]]) -> Result<Order, Wrong> {
        decode(&bytes(command, rest), ALL, 4)
    }

    #[test]
    fn commands_are_read_as_they_are_written() {
        let tables = Order::Tables { unicasts: Table::new(&[ONE, [4; 6]]), multicasts: Table::new(&[]) };
        let offloads = F_GUEST_CSUM | F_GUEST_USO4;
        let key = std::array::from_fn(|at| if at < 39 { at as u8 } else { 0 });
        let hashing = Hashing { types: TYPES, key };
        let spread = Spread { table: [3, 0].into(), unclassified: 1 };
        let calls = Coalescing { max_packets: 8.into(), max_usecs: 256.into() };
        for (command, rest, order) in [
            (Command::RX_PROMISC, &[&[1][..]][..], Order::Mode(Mode::Promiscuous, true)),
            (Command::RX_ALLMULTI, &[&[0]], Order::Mode(Mode::AllMulticasts, false)),
            (Command::RX_ALLUNI, &[&[1]], Order::Mode(Mode::AllUnicasts, true)),
            (Command::RX_NOMULTI, &[&[1]], Order::Mode(Mode::NoMulticasts, true)),
            (Command::RX_NOUNI, &[&[1]], Order::Mode(Mode::NoUnicasts, true)),
            (Command::RX_NOBCAST, &[&[1]], Order::Mode(Mode::NoBroadcasts, true)),
            (Command::MAC_TABLE_SET, &[&[2, 0, 0, 0], &[4; 6], &ONE, &[0; 4]], tables),
            (Command::MAC_ADDR_SET, &[&ONE], Order::Address(ONE)),
            (Command::VLAN_ADD, &[&[0xff, 0x0f]], Order::Vlan { id: 4095, passes: true }),
            (Command::VLAN_DEL, &[&[7, 0]], Order::Vlan { id: 7, passes: false }),
            (Command::ANNOUNCE_ACK, &[], Order::Announced),
            (Command::MQ_VQ_PAIRS_SET, &[&[4, 0]], Order::Pairs(4)),
            (
                Command::MQ_RSS_CONFIG,
                &[&[0x3f, 0, 0, 0, 1, 0, 1, 0, 3, 0, 0, 0], &[4, 0, 39], &key[..39]],
                Order::Spread(hashing.clone(), spread),
            ),
            (
                Command::MQ_HASH_CONFIG,
                &[&[0x3f, 0, 0, 0], &[0; 8], &[39], &key[..39]],
                Order::Hashing(hashing),
            ),
            (Command::GUEST_OFFLOADS_SET, &[&offloads.to_le_bytes()], Order::Offloads(offloads)),
            (Command::NOTF_COAL_TX_SET, &[&[8, 0, 0, 0], &[0, 1, 0, 0]], Order::Calls(Which::Sending, calls)),
            (Command::NOTF_COAL_RX_SET, &[&[8, 0, 0, 0, 0, 1, 0, 0]], Order::Calls(Which::Receiving, calls)),
            (
                Command::NOTF_COAL_VQ_SET,
                &[&[7, 0, 0xff, 0xff], &[8, 0, 0, 0, 0, 1, 0, 0]],
                Order::Calls(Which::One(QueueId(7)), calls),
            ),
            (Command::NOTF_COAL_VQ_GET, &[&[6, 0, 0xff, 0xff]], Order::CallsOf(QueueId(6))),
        ] {
            assert_eq!(decoded(command, rest), Ok(order.clone()));
            assert_eq!(decode(&bytes(command, rest), Features(0), 4), Err(Wrong::NotAgreed), "{order:?}");
            let may_be_longer = matches!(order, Order::Spread(..) | Order::Hashing(_));
            let longer = if may_be_longer { Ok(order.clone()) } else { Err(Wrong::Length) };
            assert_eq!(decoded(command, &[&rest.concat(), &[7]]), longer, "{order:?}");
            assert_eq!(decoded(command, &[&rest.concat(), &[7; 2]]), Err(Wrong::Length), "{order:?}");
            let whole = bytes(command, rest);
            for len in 0..whole.len() {
                assert_eq!(decode(&whole[..len], ALL, 4), Err(Wrong::Length), "{order:?} cut to {len}");
            }
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let not_agreed = Features(F_CTRL_GUEST_OFFLOADS | F_GUEST_CSUM);
        let more = bytes(Command::GUEST_OFFLOADS_SET, &[&(F_GUEST_CSUM | F_GUEST_TSO4).to_le_bytes()]);
        assert_eq!(decode(&more, not_agreed, 1), Err(Wrong::Range));
        for (command, rest, why) in [
            (Command::RX_PROMISC, &[&[2][..]][..], Wrong::Range),
            (Command::MAC_ADDR_SET, &[&[3, 0, 0, 0, 0, 1]], Wrong::Range),
            (Command::MAC_ADDR_SET, &[&[0; 6]], Wrong::Range),
            (Command::VLAN_ADD, &[&[0, 0x10]], Wrong::Range),
            (Command::MQ_VQ_PAIRS_SET, &[&[0, 0]], Wrong::Range),
            (Command::MQ_VQ_PAIRS_SET, &[&[5, 0]], Wrong::Range),
            (Command::GUEST_OFFLOADS_SET, &[&1_u64.to_le_bytes()], Wrong::Range),
            (Command::MAC_TABLE_SET, &[&[0xff; 4], &[0; 12]], Wrong::Length),
            (Command::MAC_TABLE_SET, &[&[1, 0, 0, 0x80], &[0; 12]], Wrong::Length),
            // Kinds, mask and unclassified; table; queues that send, and length of the key; key.
            (Command::MQ_RSS_CONFIG, &[&[0x40, 0, 0, 0, 0, 0, 0, 0], &[0, 0], &[1, 0, 0]], Wrong::Range),
            (Command::MQ_RSS_CONFIG, &[&[1, 0, 0, 0, 2, 0, 0, 0], &[0; 6], &[1, 0, 0]], Wrong::Range),
            (Command::MQ_RSS_CONFIG, &[&[1, 0, 0, 0, 255, 0, 0, 0], &[0; 512], &[1, 0, 0]], Wrong::Range),
            (Command::MQ_RSS_CONFIG, &[&[1, 0, 0, 0, 255, 255, 0, 0], &[0; 9]], Wrong::Range),
            (Command::MQ_RSS_CONFIG, &[&[1, 0, 0, 0, 0, 0, 4, 0], &[0, 0], &[1, 0, 0]], Wrong::Range),
            (Command::MQ_RSS_CONFIG, &[&[1, 0, 0, 0, 0, 0, 0, 0], &[4, 0], &[1, 0, 0]], Wrong::Range),
            (Command::MQ_RSS_CONFIG, &[&[1, 0, 0, 0, 0, 0, 0, 0], &[0, 0], &[0, 0, 0]], Wrong::Range),
            (Command::MQ_RSS_CONFIG, &[&[1, 0, 0, 0, 0, 0, 0, 0], &[0, 0], &[5, 0, 0]], Wrong::Range),
            (Command::MQ_HASH_CONFIG, &[&[1, 0, 0, 0], &[0; 8], &[41], &[0; 41]], Wrong::Range),
            (Command::MQ_HASH_CONFIG, &[&[0, 0, 0, 1], &[0; 8], &[0]], Wrong::Range),
            (Command::NOTF_COAL_VQ_SET, &[&[8, 0, 0, 0], &[0; 8]], Wrong::Range),
            (Command::NOTF_COAL_VQ_GET, &[&[8, 0, 0, 0]], Wrong::Range),
            (Command::NOTF_COAL_VQ_GET, &[&[0xff, 0xff, 0, 0], &[0; 8]], Wrong::Range),
            (Command::new(6, 4), &[&[0; 8]], Wrong::Unknown),
            (Command::new(0, 6), &[&[1]], Wrong::Unknown),
            (Command::new(255, 255), &[], Wrong::Unknown),
        ] {
            assert_eq!(decoded(command, rest), Err(why), "{command:?} {rest:?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_read_or_refused(
            bytes in prop::collection::vec(prop_oneof![0..8_u8, any::<u8>()], 0..64),
            features in any::<u64>(),
        ) {
            let _ = decode(&bytes, Features(features), 4);
        }
    }
}
