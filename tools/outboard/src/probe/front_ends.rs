//! What known front ends would make of a back end: derived from what they are known to demand, not tried. As of QEMU
//! 11, and the others of August 2026.

use outboard_vhost_user::ProtocolFeatures as P;
use outboard_virtio_defs::DeviceId;
use outboard_virtio_defs::features::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1};

use super::findings::{FrontEnd, Verdict};
use super::questions::Answers;

/// What counts for a front end.
struct Case<'a> {
    id: DeviceId,
    features: u64,
    protocol: P,
    answers: &'a Answers,
    refusals: Vec<String>,
    limits: Vec<String>,
}

impl Case<'_> {
    fn lacks(&mut self, needed: P, why: &str) {
        let missing = needed - self.protocol;
        if !missing.is_empty() {
            self.refusals.push(format!("no {missing}{why}"));
        }
    }

    fn needs_version_1(&mut self) {
        if self.features & VIRTIO_F_VERSION_1 == 0 {
            self.refusals.push("no VERSION_1".to_owned());
        }
    }

    fn refuse_if(&mut self, refused: bool, reason: &str) {
        if refused {
            self.refusals.push(reason.to_owned());
        }
    }

    fn limit_if(&mut self, limited: bool, reason: &str) {
        if limited {
            self.limits.push(reason.to_owned());
        }
    }

    fn has_no_config(&self) -> bool {
        self.answers.config.as_ref().is_none_or(|config| config.bytes.is_empty())
    }
}

type Demands = fn(&mut Case<'_>);

/// The front ends: name, the types that it has a device for (none: any), and what it demands.
const FRONT_ENDS: [(&str, &[DeviceId], Demands); 7] = [
    ("QEMU", &[], qemu),
    ("Cloud Hypervisor", &[DeviceId::BLK, DeviceId::NET, DeviceId::FS], cloud_hypervisor),
    ("crosvm", &[], crosvm),
    ("Firecracker", &[DeviceId::BLK], firecracker),
    ("alioth", &[DeviceId::BLK, DeviceId::NET, DeviceId::FS], alioth),
    ("libblkio", &[DeviceId::BLK], libblkio),
    ("SPDK", &[DeviceId::BLK, DeviceId::SCSI], spdk),
];

/// The verdict of each front end on a device of this type.
pub(super) fn verdicts(id: DeviceId, answers: &Answers) -> Vec<FrontEnd> {
    FRONT_ENDS.iter().map(|&(name, types, demands)| verdict(name, types, demands, id, answers)).collect()
}

fn verdict(
    name: &'static str,
    types: &[DeviceId],
    demands: Demands,
    id: DeviceId,
    answers: &Answers,
) -> FrontEnd {
    if !types.is_empty() && !types.contains(&id) {
        return FrontEnd { name, verdict: Verdict::NoDevice, reasons: vec![format!("has no {id} device")] };
    }
    let features = answers.features.unwrap_or(0);
    let protocol = answers.protocol.unwrap_or(P::EMPTY).effective();
    let mut case = Case { id, features, protocol, answers, refusals: Vec::new(), limits: Vec::new() };
    demands(&mut case);
    let Case { refusals, limits, .. } = case;
    let verdict = match (refusals.is_empty(), limits.is_empty()) {
        (false, _) => Verdict::Refuses,
        (true, false) => Verdict::Limited,
        (true, true) => Verdict::Works,
    };
    FrontEnd { name, verdict, reasons: refusals.into_iter().chain(limits).collect() }
}

/// The types whose configuration QEMU takes from the back end.
const CONFIGURED: [DeviceId; 8] = [
    DeviceId::BLK,
    DeviceId::VSOCK,
    DeviceId::GPU,
    DeviceId::INPUT,
    DeviceId::GPIO,
    DeviceId::SOUND,
    DeviceId::SPI,
    DeviceId::MEDIA,
];

fn qemu(case: &mut Case<'_>) {
    /// Types that QEMU has a device for without a configuration from the back end.
    const OWN: [DeviceId; 7] = [
        DeviceId::NET,
        DeviceId::SCSI,
        DeviceId::FS,
        DeviceId::SCMI,
        DeviceId::RNG,
        DeviceId::I2C,
        DeviceId::CRYPTO,
    ];
    if CONFIGURED.contains(&case.id) {
        case.lacks(P::CONFIG, ", which the device is read through");
    }
    let generic = !OWN.contains(&case.id) && !CONFIGURED.contains(&case.id);
    case.limit_if(generic, "only as vhost-user-test-device");
    let translated = case.features & VIRTIO_F_ACCESS_PLATFORM != 0;
    let untold = !case.protocol.contains(P::BACKEND_REQ | P::REPLY_ACK);
    case.refuse_if(translated && untold, "ACCESS_PLATFORM without BACKEND_REQ and REPLY_ACK");
    let shared = case.answers.shared_memory.as_deref().unwrap_or_default();
    case.refuse_if(case.id == DeviceId::MEDIA && shared.is_empty(), "no shared memory region");
    case.refuse_if(
        shared.iter().any(|region| region.bytes % 4096 != 0),
        "shared memory that is no whole pages",
    );
    let version_1 = case.features & VIRTIO_F_VERSION_1 != 0;
    case.limit_if(!version_1, "without VERSION_1 the guest sees a legacy device");
    for (bit, what) in [
        (P::INBAND_NOTIFICATIONS, "agrees to INBAND_NOTIFICATIONS, which it does not do"),
        (P::XEN_MMAP, "agrees to XEN_MMAP, which it does with Xen only"),
    ] {
        case.limit_if(case.protocol.contains(bit), what);
    }
    let counted = [DeviceId::BLK, DeviceId::SCSI, DeviceId::NET].contains(&case.id);
    case.limit_if(counted && !case.protocol.contains(P::MQ), "one queue only, without MQ");
}

fn cloud_hypervisor(case: &mut Case<'_>) {
    if case.id == DeviceId::BLK {
        case.lacks(P::CONFIG, "");
    }
    case.limit_if(!case.protocol.contains(P::MQ), "one queue only, without MQ");
}

fn crosvm(case: &mut Case<'_>) {
    let regions = case.answers.shared_memory.as_deref().unwrap_or_default().len();
    case.refuse_if(regions > 1, "more than one shared memory region");
    if CONFIGURED.contains(&case.id) {
        case.lacks(P::CONFIG, ", which the device is read through");
    }
    case.limit_if(!case.protocol.contains(P::MQ), "it takes the usual number of queues, without MQ");
}

fn firecracker(case: &mut Case<'_>) {
    let none = !case.protocol.contains(P::CONFIG) || case.has_no_config();
    case.refuse_if(none, "an empty configuration, without CONFIG");
}

fn alioth(case: &mut Case<'_>) {
    case.needs_version_1();
    case.lacks(P::MQ | P::REPLY_ACK | P::CONFIGURE_MEM_SLOTS | P::CONFIG, "");
}

fn libblkio(case: &mut Case<'_>) {
    case.lacks(P::REPLY_ACK | P::CONFIG | P::CONFIGURE_MEM_SLOTS, "");
}

fn spdk(case: &mut Case<'_>) {
    if case.id == DeviceId::BLK {
        case.lacks(P::CONFIG, "");
        let short = case.answers.config.as_ref().is_some_and(|config| config.at_once < 256);
        case.refuse_if(short, "256 bytes of configuration at once are refused");
    }
    case.limit_if(!case.protocol.contains(P::MQ), "it asks for the number of queues even without MQ");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::questions::Space;

    fn verdict_of(name: &str, id: DeviceId, answers: &Answers) -> Verdict {
        verdicts(id, answers).iter().find(|one| one.name == name).unwrap().verdict
    }

    fn disk() -> Answers {
        Answers {
            features: Some(VIRTIO_F_VERSION_1),
            protocol: Some(P::DEFAULT_OFFER),
            config: Some(Space { bytes: vec![1; 256], exact: false, at_once: 256 }),
            ..Answers::default()
        }
    }

    #[test]
    fn verdict_on_a_complete_disk_is_that_it_works_everywhere() {
        for one in verdicts(DeviceId::BLK, &disk()) {
            assert_eq!(one.verdict, Verdict::Works, "{}: {:?}", one.name, one.reasons);
        }
    }

    #[test]
    fn verdict_names_what_is_missing() {
        let mut answers = disk();
        answers.protocol = Some(P::MQ | P::CONFIG);
        assert_eq!(verdict_of("libblkio", DeviceId::BLK, &answers), Verdict::Refuses);
        assert_eq!(verdict_of("QEMU", DeviceId::BLK, &answers), Verdict::Works);
        answers.protocol = Some(P::MQ);
        assert_eq!(verdict_of("QEMU", DeviceId::BLK, &answers), Verdict::Refuses);
        assert_eq!(verdict_of("Firecracker", DeviceId::BLK, &answers), Verdict::Refuses);
        assert_eq!(verdict_of("libblkio", DeviceId::RNG, &answers), Verdict::NoDevice);
        assert_eq!(verdict_of("QEMU", DeviceId::RNG, &answers), Verdict::Works);
        assert_eq!(verdict_of("QEMU", DeviceId::CONSOLE, &answers), Verdict::Limited);
    }

    #[test]
    fn verdict_of_spdk_follows_what_is_read_at_once() {
        let mut answers = disk();
        answers.config = Some(Space { bytes: vec![1; 60], exact: true, at_once: 60 });
        assert_eq!(verdict_of("SPDK", DeviceId::BLK, &answers), Verdict::Refuses);
    }
}
