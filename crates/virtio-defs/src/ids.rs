//! The device ids that VirtIO assigns (VIRTIO 1.3, 5).

use std::fmt;
use std::str::FromStr;

/// A VirtIO device id (VIRTIO 1.3, 5). Any number may come from a peer; [`DeviceId::name`] knows the assigned ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u16);

macro_rules! ids {
    ($($(#[$doc:meta])* $id:ident = $value:literal, $name:literal;)+) => {
        impl DeviceId {
            $($(#[$doc])* pub const $id: Self = Self($value);)+

            /// A short name: `net`, `blk`; `None` for an id that is not assigned.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($name),)+
                    _ => None,
                }
            }
        }

        impl DeviceId {
            /// Every assigned id, ascending.
            pub const ALL: &'static [Self] = &[$(Self::$id),+];
        }
    };
}

ids! {
    /// Network card (VIRTIO 1.3, 5.1).
    NET = 1, "net";
    /// Block device (VIRTIO 1.3, 5.2).
    BLK = 2, "blk";
    /// Console (VIRTIO 1.3, 5.3).
    CONSOLE = 3, "console";
    /// Entropy source (VIRTIO 1.3, 5.4).
    RNG = 4, "rng";
    /// Memory balloon, traditional (VIRTIO 1.3, 5.5).
    BALLOON = 5, "balloon";
    /// ioMemory.
    IO_MEMORY = 6, "iomem";
    /// rpmsg.
    RPMSG = 7, "rpmsg";
    /// SCSI host (VIRTIO 1.3, 5.6).
    SCSI = 8, "scsi";
    /// 9P transport.
    P9 = 9, "9p";
    /// mac80211 wlan.
    WLAN = 10, "wlan";
    /// Remote processor serial.
    RPROC_SERIAL = 11, "rproc-serial";
    /// CAIF.
    CAIF = 12, "caif";
    /// Memory balloon.
    MEM_BALLOON = 13, "mem-balloon";
    /// GPU (VIRTIO 1.3, 5.7).
    GPU = 16, "gpu";
    /// Clock (VIRTIO 1.4, RTC).
    RTC = 17, "rtc";
    /// Input (VIRTIO 1.3, 5.8).
    INPUT = 18, "input";
    /// Socket (VIRTIO 1.3, 5.10).
    VSOCK = 19, "vsock";
    /// Crypto (VIRTIO 1.3, 5.9).
    CRYPTO = 20, "crypto";
    /// Signal distribution module.
    SIGNAL_DIST = 21, "sdm";
    /// pstore.
    PSTORE = 22, "pstore";
    /// IOMMU (VIRTIO 1.3, 5.13).
    IOMMU = 23, "iommu";
    /// Memory (VIRTIO 1.3, 5.15).
    MEM = 24, "mem";
    /// Sound (VIRTIO 1.3, 5.14).
    SOUND = 25, "snd";
    /// File system (VIRTIO 1.3, 5.11).
    FS = 26, "fs";
    /// Persistent memory (VIRTIO 1.3, 5.19).
    PMEM = 27, "pmem";
    /// Replay protected memory block (VIRTIO 1.3, 5.12).
    RPMB = 28, "rpmb";
    /// mac80211 hwsim.
    MAC80211_HWSIM = 29, "hwsim";
    /// Video encoder.
    VIDEO_ENCODER = 30, "video-enc";
    /// Video decoder.
    VIDEO_DECODER = 31, "video-dec";
    /// SCMI (VIRTIO 1.3, 5.17).
    SCMI = 32, "scmi";
    /// Nitro secure module.
    NITRO_SEC = 33, "nitro";
    /// I2C adapter (VIRTIO 1.3, 5.16).
    I2C = 34, "i2c";
    /// Watchdog.
    WATCHDOG = 35, "watchdog";
    /// CAN.
    CAN = 36, "can";
    /// Parameter server.
    PARAM_SERVER = 38, "param-server";
    /// Audio policy.
    AUDIO_POLICY = 39, "audio-policy";
    /// Bluetooth.
    BT = 40, "bt";
    /// GPIO (VIRTIO 1.3, 5.18).
    GPIO = 41, "gpio";
    /// RDMA.
    RDMA = 42, "rdma";
    /// Camera.
    CAMERA = 43, "camera";
    /// Internal shared memory.
    ISM = 44, "ism";
    /// SPI (VIRTIO 1.4).
    SPI = 45, "spi";
    /// Trusted execution environment.
    TEE = 46, "tee";
    /// CPU balloon.
    CPU_BALLOON = 47, "cpu-balloon";
    /// Media.
    MEDIA = 48, "media";
    /// USB.
    USB = 49, "usb";
}

impl FromStr for DeviceId {
    type Err = UnknownDevice;

    /// A short name as [`DeviceId::name`] gives it, or a number.
    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        let named = Self::ALL.iter().find(|id| id.name() == Some(text));
        named.copied().or_else(|| text.parse().ok().map(Self)).ok_or(UnknownDevice)
    }
}

/// Neither a device's name nor a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownDevice;

impl fmt::Display for UnknownDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither the name of a device nor the number of one")
    }
}

impl std::error::Error for UnknownDevice {}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "device {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_bindings::virtio_ids as oracle;

    #[test]
    fn ids_equal_the_kernels() {
        let pairs = [
            (DeviceId::NET, oracle::VIRTIO_ID_NET),
            (DeviceId::BLK, oracle::VIRTIO_ID_BLOCK),
            (DeviceId::CONSOLE, oracle::VIRTIO_ID_CONSOLE),
            (DeviceId::RNG, oracle::VIRTIO_ID_RNG),
            (DeviceId::BALLOON, oracle::VIRTIO_ID_BALLOON),
            (DeviceId::SCSI, oracle::VIRTIO_ID_SCSI),
            (DeviceId::P9, oracle::VIRTIO_ID_9P),
            (DeviceId::GPU, oracle::VIRTIO_ID_GPU),
            (DeviceId::INPUT, oracle::VIRTIO_ID_INPUT),
            (DeviceId::VSOCK, oracle::VIRTIO_ID_VSOCK),
            (DeviceId::CRYPTO, oracle::VIRTIO_ID_CRYPTO),
            (DeviceId::SOUND, oracle::VIRTIO_ID_SOUND),
            (DeviceId::FS, oracle::VIRTIO_ID_FS),
            (DeviceId::PMEM, oracle::VIRTIO_ID_PMEM),
            (DeviceId::SCMI, oracle::VIRTIO_ID_SCMI),
            (DeviceId::WATCHDOG, oracle::VIRTIO_ID_WATCHDOG),
            (DeviceId::CAN, oracle::VIRTIO_ID_CAN),
            (DeviceId::GPIO, oracle::VIRTIO_ID_GPIO),
        ];
        for (ours, theirs) in pairs {
            assert_eq!(u32::from(ours.0), theirs);
        }
    }

    #[test]
    fn names_assigned_differ_and_unassigned_have_none() {
        let names: std::collections::BTreeSet<_> = DeviceId::ALL.iter().map(|id| id.name()).collect();
        assert_eq!(names.len(), DeviceId::ALL.len());
        assert!(!names.contains(&None));
        assert_eq!("rng".parse(), Ok(DeviceId::RNG));
        assert_eq!("37".parse(), Ok(DeviceId(37)));
        assert_eq!("-1".parse::<DeviceId>(), Err(UnknownDevice));
        assert_eq!(DeviceId(37).name(), None);
        assert_eq!(DeviceId(37).to_string(), "device 37");
        assert_eq!(DeviceId::RNG.to_string(), "rng");
    }
}
