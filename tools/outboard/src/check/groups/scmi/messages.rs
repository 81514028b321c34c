//! What messages mean.

use super::{
    BASE, INVALID_PARAMETERS, NOT_FOUND, NOT_SUPPORTED, Platform, SENSOR, each, each_with_events, terminated,
};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::session::Session;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "scmi.base-version",
        title: "the base protocol has a version",
        spec: "DEN0056, 4.2.2.1",
        run: base_version,
    },
    Check {
        id: "scmi.base-protocols",
        title: "as many protocols are listed as are counted, each once",
        spec: "DEN0056, 4.2.2.2 and 4.2.2.7",
        run: base_protocols,
    },
    Check {
        id: "scmi.every-protocol-version",
        title: "every protocol that is listed has a version",
        spec: "DEN0056, 4.1.5",
        run: every_version,
    },
    Check {
        id: "scmi.message-attributes",
        title: "every protocol says of its messages which there are",
        spec: "DEN0056, 4.1.5",
        run: message_attributes,
    },
    Check {
        id: "scmi.unknown-protocol",
        title: "a command of a protocol that there is not is not supported",
        spec: "DEN0056, 4.1.4",
        run: unknown_protocol,
    },
    Check {
        id: "scmi.unknown-message",
        title: "a command that a protocol does not have is not supported",
        spec: "DEN0056, 4.1.4",
        run: unknown_message,
    },
    Check {
        id: "scmi.names-terminated",
        title: "names end within their fields",
        spec: "DEN0056, 4.2.2.4 and 4.7.2.6",
        run: names,
    },
    Check {
        id: "scmi.multi-part-ends",
        title: "descriptions that come in parts are all there, and end",
        spec: "DEN0056, 4.7.2.6",
        run: parts,
    },
    Check {
        id: "scmi.ids-dense",
        title: "there are as many sensors as are counted, by their numbers from 0 on",
        spec: "DEN0056, 4.7.2.6 and 4.7.2.8",
        run: ids,
    },
    Check {
        id: "scmi.notify-without-events",
        title: "no notifications can be asked for without a queue for them",
        spec: "VIRTIO 1.3, 5.17.4.1",
        run: notify_without,
    },
    Check {
        id: "scmi.notify-arrives",
        title: "a sensor that was asked for its updates tells of itself",
        spec: "DEN0056, 4.7.3.2; VIRTIO 1.3, 5.17.6.2",
        run: notify_arrives,
    },
];

fn base_version(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        let words = platform.words(BASE, 0, &[])?;
        ensure!(words.len() == 1, "{} words, not 1", words.len());
        ensure!(words.iter().all(|version| (0x1_0000..=0xf_ffff).contains(version)), "version {words:x?}");
        Ok(())
    })
}

fn base_protocols(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        let counted = platform.words(BASE, 1, &[])?.first().copied().unwrap_or_default() & 0xff;
        let mut list = platform.protocols()?;
        ensure!(list.len() == usize::try_from(counted)?, "{counted} are counted, {list:x?} listed");
        list.sort_unstable();
        let all = list.len();
        list.dedup();
        ensure!(list.len() == all, "a protocol is listed twice");
        ensure!(!list.contains(&BASE), "the base protocol lists itself");
        Ok(())
    })
}

fn every_version(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        for protocol in platform.protocols()? {
            let version = platform.words(protocol, 0, &[])?.first().copied().unwrap_or_default();
            ensure!(version >= 0x1_0000, "protocol {protocol:#x} has version {version:#x}");
            platform.words(protocol, 1, &[])?;
        }
        Ok(())
    })
}

fn message_attributes(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        let mut protocols = platform.protocols()?;
        protocols.push(BASE);
        for protocol in protocols {
            for message in 0..=2 {
                platform.words(protocol, 2, &[message])?;
            }
            let status = platform.status(protocol, 2, &[0xee])?;
            ensure!(status == NOT_FOUND, "of message 0xee of {protocol:#x} it says {status}, not NOT_FOUND");
        }
        Ok(())
    })
}

fn unknown_protocol(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        let status = platform.status(0x7f, 0, &[])?;
        ensure!(status == NOT_SUPPORTED, "status {status}, not NOT_SUPPORTED");
        platform.works()
    })
}

fn unknown_message(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        let mut protocols = platform.protocols()?;
        protocols.push(BASE);
        for protocol in protocols {
            let status = platform.status(protocol, 0xee, &[])?;
            ensure!(status == NOT_SUPPORTED, "protocol {protocol:#x}: status {status}, not NOT_SUPPORTED");
        }
        platform.works()
    })
}

fn names(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        terminated(&platform.words(BASE, 3, &[])?)?;
        if let Ok(count) = platform.needs_sensors() {
            for id in 0..count {
                let words = platform.words(SENSOR, 3, &[id])?;
                terminated(words.get(4..8).ok_or_else(|| Stop::fail("a description that is cut"))?)?;
            }
        }
        Ok(())
    })
}

/// Sensors that an answer says it describes, and how many it says are left.
fn described(platform: &mut Platform, first: u32) -> Checked<(u32, u32, Vec<u32>)> {
    let words = platform.words(SENSOR, 3, &[first])?;
    let (flags, rest) = words.split_first().ok_or_else(|| Stop::fail("no count of sensors"))?;
    Ok((flags & 0xfff, flags >> 16, rest.to_vec()))
}

fn parts(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        let count = platform.needs_sensors()?;
        let mut seen = 0;
        while seen < count {
            let (returned, remaining, _) = described(platform, seen)?;
            ensure!(returned > 0, "{seen} of {count} sensors are described, and no more come");
            ensure!(
                seen + returned + remaining == count,
                "{seen} before, {returned} returned and {remaining} remaining, of {count}"
            );
            seen += returned;
        }
        Ok(())
    })
}

fn ids(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        let count = platform.needs_sensors()?;
        for id in 0..count {
            let (_, _, words) = described(platform, id)?;
            ensure!(words.first() == Some(&id), "sensor {id} is described as {:?}", words.first());
        }
        let status = platform.status(SENSOR, 6, &[count, 0])?;
        ensure!(
            [NOT_FOUND, INVALID_PARAMETERS].contains(&status),
            "sensor {count} of {count} is read: {status}"
        );
        Ok(())
    })
}

/// What asks for notifications: protocol, message, parameters.
const SUBSCRIPTIONS: [(u8, u8, &[u32]); 6] = [
    (0x11, 6, &[0, 1]),
    (0x12, 5, &[1]),
    (0x13, 9, &[0, 1]),
    (0x14, 9, &[0, 1]),
    (SENSOR, 0xb, &[0, 1]),
    (0x16, 5, &[0, 1]),
];

fn notify_without(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        let protocols = platform.protocols()?;
        for (protocol, message, params) in SUBSCRIPTIONS {
            if protocols.contains(&protocol) {
                let status = platform.status(protocol, message, params)?;
                ensure!(
                    status == NOT_SUPPORTED,
                    "protocol {protocol:#x}: status {status}, not NOT_SUPPORTED"
                );
            }
        }
        Ok(())
    })
}

fn notify_arrives(cx: &mut Cx) -> Checked {
    each_with_events(cx, |platform| {
        let count = platform.needs_sensors()?;
        let patience = platform.session.patience;
        for id in 0..count {
            let (_, _, words) = described(platform, id)?;
            if words.get(1).is_none_or(|low| low & 1 << 30 == 0) {
                continue;
            }
            // Mantissa in 20:5 and exponent in 4:0 become 31:16 and 15:11. The shortest interval is often the last.
            let intervals = platform.words(SENSOR, 8, &[id, 0]).unwrap_or_default();
            let interval = intervals.iter().skip(1).last().map_or(0, |interval| interval << 11);
            let sample = crate::check::sample::Sample {
                queue: 1,
                readable: Vec::new(),
                writable: vec![256],
                verify: |_, _| Ok(()),
            };
            let Session { memory, rings, .. } = &mut platform.session;
            let ring = rings.get_mut(1).ok_or_else(|| Stop::lacks("a ring"))?;
            let placed = ring.place(memory, &sample, 1)?;
            ring.publish()?;
            platform.words(SENSOR, 0xa, &[id, interval | 1])?;
            platform.words(SENSOR, 0xb, &[id, 1])?;
            let Session { memory, rings, .. } = &mut platform.session;
            let ring = rings.get_mut(1).ok_or_else(|| Stop::lacks("a ring"))?;
            let (_, len) = ring.returned(patience)?;
            let written = ring.verify(memory, &sample, placed, len)?;
            let word = |index: usize| {
                let bytes = written.get(index * 4..)?.first_chunk()?;
                Some(u32::from_le_bytes(*bytes))
            };
            let header = 1 | 3 << 8 | u32::from(SENSOR) << 10;
            let found = word(0).map(|header| header & 0x3_ffff);
            ensure!(found == Some(header), "an event with header {found:x?}, not {header:#x}");
            ensure!(word(2) == Some(id) && len >= 28, "an event of {len} bytes of sensor {:?}", word(2));
            return Ok(());
        }
        Err(Stop::NotApplicable("no sensor has updates".to_owned()))
    })
}
