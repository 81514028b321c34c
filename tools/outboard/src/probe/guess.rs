//! Which device type is it? vhost-user does not tell. So each type is held against what was found: feature bits,
//! number of queues, length and content of the configuration, the program's name. What fits and what does not is
//! weighed; the reasons are told, for the weights are ours.

use outboard_virtio_defs::DeviceId;
use outboard_virtio_defs::config_fields::config_space;
use outboard_virtio_defs::features::{device_features, feature_name};

use super::decode::{number, text};
use super::findings::{Confidence, Device, Program};
use super::questions::{Answers, Space};

/// Bits that belong to the device type (VIRTIO 1.3, 2.2), as far as 64 go.
const DEVICE_BITS: u64 = 0x00ff_ffff | !0 << 50;

/// Weight that makes a guess likely,
const LIKELY: i32 = 6;
/// if the next type is as far behind as this.
const APART: i32 = 3;
/// Weight that makes a guess possible.
const POSSIBLE: i32 = 3;
/// Types within this distance of the best are named beside it.
const NEAR: i32 = 3;

/// How a type fits.
struct Case {
    id: DeviceId,
    weight: i32,
    pro: Vec<String>,
    contra: Vec<String>,
}

impl Case {
    fn weigh(&mut self, weight: i32, reason: impl Into<String>) {
        self.weight += weight;
        let reasons = if weight > 0 { &mut self.pro } else { &mut self.contra };
        reasons.push(reason.into());
    }
}

/// The type that fits best, or the one `asked` for with what speaks for and against it.
pub(super) fn guess(answers: &Answers, asked: Option<DeviceId>) -> Option<Device> {
    let features = answers.features?;
    let mut cases: Vec<Case> = DeviceId::ALL
        .iter()
        .filter(|id| config_space(**id).is_some())
        .map(|&id| case(id, features, answers))
        .collect();
    cases.sort_by_key(|case| std::cmp::Reverse(case.weight));
    if let Some(id) = asked {
        return Some(device(case(id, features, answers), Confidence::Asked, Vec::new()));
    }
    let mut cases = cases.into_iter();
    let best = cases.next()?;
    let near: Vec<_> =
        cases.take_while(|case| case.weight >= best.weight - NEAR && case.weight > 0).collect();
    let distance = near.first().map_or(i32::MAX, |next| best.weight - next.weight);
    let confidence = match best.weight {
        LIKELY.. if distance >= APART => Confidence::Likely,
        POSSIBLE.. => Confidence::Possible,
        _ => Confidence::Unknown,
    };
    let alternatives = near.iter().map(|case| case.id.to_string()).collect();
    Some(device(best, confidence, alternatives))
}

fn device(case: Case, confidence: Confidence, alternatives: Vec<String>) -> Device {
    let Case { id, pro, contra, .. } = case;
    Device { kind: id.to_string(), id: id.0, confidence, pro, contra, alternatives }
}

fn case(id: DeviceId, features: u64, answers: &Answers) -> Case {
    let mut case = Case { id, weight: 0, pro: Vec::new(), contra: Vec::new() };
    if [DeviceId::BLK, DeviceId::NET, DeviceId::FS, DeviceId::RNG].contains(&id) {
        // What most back ends are; no reason that could be told.
        case.weight += 1;
    }
    weigh_features(&mut case, features & DEVICE_BITS);
    if let Some(count) = answers.queues {
        weigh_queues(&mut case, count);
    }
    weigh_config(&mut case, features, answers.queues, answers.config.as_ref());
    if answers.program.as_ref().and_then(named_after) == Some(id) {
        case.weigh(3, "the name of its program");
    }
    case
}

fn weigh_features(case: &mut Case, features: u64) {
    let known = device_features(case.id) & DEVICE_BITS;
    let foreign = features & !known;
    if foreign != 0 {
        let bits: Vec<String> = bits(foreign).map(|bit| bit.to_string()).collect();
        let weight = i32::try_from(foreign.count_ones()).unwrap_or(2).min(2) * -4;
        case.weigh(weight, format!("feature bits that this type does not have: {}", bits.join(", ")));
    }
    let named = features & known;
    if named != 0 {
        let names: Vec<_> = bits(named).filter_map(|bit| feature_name(case.id, bit)).collect();
        let weight = i32::try_from(named.count_ones()).unwrap_or(5).min(5);
        case.weigh(weight, format!("the features {}", names.join(" ")));
    } else if features == 0 {
        if needed(case.id) != 0 {
            case.weigh(-2, "none of the features that such devices have");
        } else {
            case.weigh(1, "no feature of a device type");
        }
    }
}

/// Feature bits of which practically every device of the type offers one.
fn needed(id: DeviceId) -> u64 {
    match id {
        DeviceId::NET | DeviceId::BLK => !0,
        DeviceId::P9 | DeviceId::I2C | DeviceId::CAN | DeviceId::CRYPTO => 1,
        DeviceId::IOMMU => 0b100,
        _ => 0,
    }
}

fn weigh_queues(case: &mut Case, count: u64) {
    let fits = match case.id {
        DeviceId::RNG
        | DeviceId::I2C
        | DeviceId::SPI
        | DeviceId::P9
        | DeviceId::PMEM
        | DeviceId::RPMB
        | DeviceId::MEM => count == 1,
        DeviceId::RTC | DeviceId::GPIO | DeviceId::SCMI => count == 1 || count == 2,
        DeviceId::INPUT | DeviceId::GPU | DeviceId::IOMMU | DeviceId::MEDIA | DeviceId::BT => count == 2,
        DeviceId::VIDEO_ENCODER | DeviceId::VIDEO_DECODER => count == 2,
        DeviceId::VSOCK => count == 2 || count == 3,
        DeviceId::CAN => count == 3,
        DeviceId::SOUND => count == 4,
        DeviceId::BALLOON => (2..=5).contains(&count),
        DeviceId::CONSOLE => count == 2 || count >= 4 && count.is_multiple_of(2),
        DeviceId::FS | DeviceId::CRYPTO => count >= 2,
        DeviceId::SCSI => count >= 3,
        _ => count >= 1,
    };
    let exact = matches!(
        case.id,
        DeviceId::RNG
            | DeviceId::I2C
            | DeviceId::SPI
            | DeviceId::INPUT
            | DeviceId::GPU
            | DeviceId::SOUND
            | DeviceId::CAN
    );
    let reason = if count == 1 { "1 queue".to_owned() } else { format!("{count} queues") };
    match fits {
        true => case.weigh(if exact { 2 } else { 1 }, reason),
        false => case.weigh(-3, reason),
    }
}

fn weigh_config(case: &mut Case, features: u64, queues: Option<u64>, config: Option<&Space>) {
    let Some(space) = config_space(case.id) else { return };
    let longest = space.lengths.last().copied().unwrap_or(usize::MAX);
    let Some(config) = config else {
        match case.id {
            // The front end makes up their configuration.
            DeviceId::NET | DeviceId::SCSI | DeviceId::FS => {}
            _ if space.fields.is_empty() => case.weigh(2, "no configuration"),
            _ => case.weigh(-3, "no configuration"),
        }
        return;
    };
    let len = config.known().len();
    if config.exact && space.lengths.contains(&len) {
        case.weigh(3, format!("{len} bytes of configuration"));
    } else if config.exact && len > 0 && !space.lengths.is_empty() || len > longest {
        case.weigh(-4, format!("{len} bytes of configuration"));
    } else if space.fields.is_empty() && len == 0 {
        case.weigh(2, "an empty configuration");
    }
    if !space.fields.is_empty() {
        match content(case.id, features, queues, &config.bytes) {
            Ok(Some(reason)) => case.weigh(4, reason),
            Ok(None) => {}
            Err(reason) => case.weigh(-4, reason),
        }
    }
}

/// Is the content plausible? With the reason, where there is one to tell.
fn content(id: DeviceId, features: u64, queues: Option<u64>, bytes: &[u8]) -> Result<Option<String>, String> {
    let has = |bit: u32| features & 1 << bit != 0;
    let read = |name| number(id, name, bytes).unwrap_or(0);
    match id {
        DeviceId::BLK => {
            let (sectors, block) = (read("capacity"), read("blk_size"));
            if has(6) && !(block.is_power_of_two() && (512..=1 << 20).contains(&block)) {
                return Err(format!("a block size of {block}"));
            }
            if has(12) && queues.is_some_and(|queues| queues != read("num_queues")) {
                return Err(format!("num_queues would be {}", read("num_queues")));
            }
            match sectors {
                0 if block == 0 => Err("a capacity of 0".to_owned()),
                sectors if sectors >> 55 != 0 => Err(format!("a capacity of {sectors} sectors")),
                sectors if has(6) => {
                    Ok(Some(format!("a capacity of {sectors} sectors and blocks of {block}")))
                }
                _ => Ok(None),
            }
        }
        DeviceId::NET => {
            let mac = bytes.get(..6).unwrap_or_default();
            if has(5) && (mac.iter().all(|byte| *byte == 0) || mac.first().is_some_and(|byte| byte & 1 != 0))
            {
                return Err("what would be its MAC address is none of a card".to_owned());
            }
            if has(3) && read("mtu") < 68 {
                return Err(format!("an MTU of {}", read("mtu")));
            }
            Ok(has(5).then(|| "a MAC address".to_owned()))
        }
        DeviceId::VSOCK => match read("guest_cid") {
            cid @ 3..0xffff_ffff => Ok(Some(format!("{cid} is a guest's context identifier"))),
            cid => Err(format!("{cid} is no guest's context identifier")),
        },
        DeviceId::FS => {
            let tag = text(bytes.get(..36).unwrap_or_default());
            let printable =
                !tag.is_empty() && tag.chars().all(|char| !char.is_control() && char != '\u{fffd}');
            match read("num_request_queues") {
                1..0x1_0000 if printable => Ok(Some(format!("the tag {tag:?}"))),
                _ => Err("no tag, or no request queue".to_owned()),
            }
        }
        DeviceId::GPIO => {
            let (lines, names) = (read("ngpio"), read("gpio_names_size"));
            let padding = bytes.get(2..4).is_some_and(|padding| padding.iter().any(|byte| *byte != 0));
            match lines {
                1.. if !padding && names <= lines * 256 => Ok(Some(format!("{lines} lines"))),
                _ => Err("no lines, or names that do not fit them".to_owned()),
            }
        }
        DeviceId::SOUND => {
            let all = [read("jacks"), read("streams"), read("chmaps")];
            match all.iter().all(|&count| count <= 256) && read("streams") > 0 {
                true => Ok(Some(format!("{} streams", read("streams")))),
                false => Err("no streams, or too many".to_owned()),
            }
        }
        DeviceId::GPU => match (read("num_scanouts"), read("events_read")) {
            (1..=16, 0..=1) => Ok(Some(format!("{} scanouts", read("num_scanouts")))),
            (scanouts, _) => Err(format!("{scanouts} scanouts")),
        },
        // Before something was selected nothing is in it.
        DeviceId::INPUT => match bytes.iter().all(|byte| *byte == 0) {
            true => Ok(None),
            false if bytes.get(3..8).is_some_and(|reserved| reserved.iter().all(|byte| *byte == 0)) => {
                Ok(None)
            }
            false => Err("reserved bytes that are not zero".to_owned()),
        },
        DeviceId::MEM => match read("block_size") {
            size if size.is_power_of_two() && read("region_size") % size == 0 => {
                Ok(Some(format!("blocks of {size} bytes")))
            }
            size => Err(format!("blocks of {size} bytes")),
        },
        DeviceId::MEDIA => {
            let card = text(bytes.get(8..40).unwrap_or_default());
            match !card.is_empty() && card.chars().all(|char| !char.is_control() && char != '\u{fffd}') {
                true => Ok(Some(format!("the card {card:?}"))),
                false => Err("no name of a card".to_owned()),
            }
        }
        DeviceId::SCSI => match (read("sense_size"), read("cdb_size")) {
            (sense @ 1..=256, cdb @ 1..=260) => {
                Ok(Some(format!("{sense} bytes of sense data, commands of {cdb}")))
            }
            (sense, cdb) => Err(format!("{sense} bytes of sense data, commands of {cdb}")),
        },
        DeviceId::PMEM => match read("size") {
            0 => Err("a size of 0".to_owned()),
            size if size % 4096 == 0 => Ok(None),
            size => Err(format!("a size of {size}")),
        },
        DeviceId::RPMB => match read("capacity") {
            1..=0x80 => Ok(None),
            capacity => Err(format!("a capacity of {capacity} times 128 KiB")),
        },
        _ if bytes.iter().all(|byte| *byte == 0) => Err("a configuration without anything in it".to_owned()),
        _ => Ok(None),
    }
}

/// The type that a program is named after: by a word of its file's name, else by a word that follows it.
fn named_after(program: &Program) -> Option<DeviceId> {
    let executable = program.executable.as_deref().and_then(|path| path.rsplit('/').next());
    let arguments = program.command.iter().skip(1).take(3);
    let arguments =
        arguments.map(String::as_str).filter(|word| !word.starts_with('-') && !word.contains('/'));
    executable.into_iter().chain(arguments).find_map(type_in)
}

fn type_in(name: &str) -> Option<DeviceId> {
    if name == "qemu-storage-daemon" {
        return Some(DeviceId::BLK);
    }
    let mut words = name.split(|char: char| !char.is_ascii_alphanumeric());
    words.find_map(|word| match word {
        "block" => Some(DeviceId::BLK),
        "virtiofsd" => Some(DeviceId::FS),
        "sound" => Some(DeviceId::SOUND),
        "passt" => Some(DeviceId::NET),
        // Numbers are no names.
        word if word.bytes().all(|byte| byte.is_ascii_digit()) => None,
        word => word.parse().ok(),
    })
}

fn bits(mask: u64) -> impl Iterator<Item = u32> {
    (0..u64::BITS).filter(move |bit| mask & 1 << bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_in_a_program_name_is_a_whole_word_of_it() {
        for (name, id) in [
            ("vhost-user-blk", Some(DeviceId::BLK)),
            ("vhost-device-gpio", Some(DeviceId::GPIO)),
            ("virtiofsd", Some(DeviceId::FS)),
            ("qemu-storage-daemon", Some(DeviceId::BLK)),
            ("outboard", None),
            ("vhost-4", None),
            ("rngd", None),
        ] {
            assert_eq!(type_in(name), id, "{name}");
        }
    }
}
