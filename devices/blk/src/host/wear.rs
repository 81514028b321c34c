//! How worn a disk is: what eMMC and UFS say of themselves, by way of the kernel. Trusted: sysfs, within bounds.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use outboard_device::defs::blk::Lifetime;

/// Largest values with a meaning (VIRTIO 1.3, 5.2.6); others must not be passed on.
const MAX_PRE_EOL: u16 = 3;
const MAX_ESTIMATE: u16 = 11;

/// Where a disk tells how worn it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wear {
    /// The directory of an eMMC device, with `pre_eol_info` and `life_time`.
    Emmc(PathBuf),
    /// A UFS controller's `health_descriptor`.
    Ufs(PathBuf),
}

impl Wear {
    /// For the block device with that number, or the disk that it is a partition of. `sysfs` is `/sys`.
    pub(crate) fn find(sysfs: &Path, major: u32, minor: u32) -> Option<Self> {
        let block = sysfs.join(format!("dev/block/{major}:{minor}")).canonicalize().ok()?;
        let disk = if block.join("partition").exists() { block.parent()? } else { &block };
        let device = disk.join("device").canonicalize().ok()?;
        if device.join("life_time").exists() && device.join("pre_eol_info").exists() {
            return Some(Self::Emmc(device));
        }
        let health = device.ancestors().map(|above| above.join("health_descriptor"));
        health.take_while(|path| path.starts_with(sysfs)).find(|path| path.is_dir()).map(Self::Ufs)
    }

    /// What it says now. What it does not say is 0, for unknown.
    pub(crate) fn read(&self) -> Lifetime {
        let (pre_eol, a, b) = match self {
            Self::Emmc(device) => {
                let estimates = read_to_string(device.join("life_time")).unwrap_or_default();
                let mut estimates = estimates.split_whitespace().map(number);
                let mut next = || estimates.next().unwrap_or(0);
                (value(&device.join("pre_eol_info")), next(), next())
            }
            Self::Ufs(health) => {
                let value = |name: &str| value(&health.join(name));
                (value("eol_info"), value("life_time_estimation_a"), value("life_time_estimation_b"))
            }
        };
        let known = |value: u16, most: u16| if value <= most { value } else { 0 };
        Lifetime {
            pre_eol_info: known(pre_eol, MAX_PRE_EOL).into(),
            estimate_a: known(a, MAX_ESTIMATE).into(),
            estimate_b: known(b, MAX_ESTIMATE).into(),
        }
    }
}

fn value(path: &Path) -> u16 {
    read_to_string(path).map_or(0, |text| number(text.trim()))
}

/// A number as sysfs has them: `0x0b`.
fn number(text: &str) -> u16 {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u16::from_str_radix(digits, 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    /// A sysfs with a disk 179:0 and its partition 179:1, below `device`.
    fn sysfs(device: &str) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let sys = root.path().canonicalize().unwrap();
        let disk = sys.join("devices").join(device).join("block/disk");
        create_dir_all(disk.join("part")).unwrap();
        write(disk.join("part/partition"), "1\n").unwrap();
        symlink("../../", disk.join("device")).unwrap();
        create_dir_all(sys.join("dev/block")).unwrap();
        symlink(&disk, sys.join("dev/block/179:0")).unwrap();
        symlink(disk.join("part"), sys.join("dev/block/179:1")).unwrap();
        let device = sys.join("devices").join(device);
        (root, device)
    }

    fn read(root: &tempfile::TempDir, minor: u32) -> Option<[u16; 3]> {
        let lifetime = Wear::find(&root.path().canonicalize().unwrap(), 179, minor)?.read();
        Some([lifetime.pre_eol_info.get(), lifetime.estimate_a.get(), lifetime.estimate_b.get()])
    }

    #[test]
    fn wear_of_an_emmc_is_what_its_device_says() {
        let (root, device) = sysfs("mmc0/mmc0:0001");
        assert_eq!(read(&root, 0), None, "an old card");
        write(device.join("life_time"), "0x02 0x0b\n").unwrap();
        assert_eq!(read(&root, 0), None, "half of it");
        write(device.join("pre_eol_info"), "0x01\n").unwrap();
        assert_eq!(read(&root, 0), Some([1, 2, 11]));
        assert_eq!(read(&root, 1), Some([1, 2, 11]), "a partition is as worn as its disk");
        assert_eq!(read(&root, 2), None);
    }

    #[test]
    fn wear_of_a_ufs_is_what_its_controller_says() {
        let (root, device) = sysfs("1d84000.ufshc/host0/target0:0:0/0:0:0:0");
        assert_eq!(read(&root, 0), None);
        let health = device.ancestors().nth(3).unwrap().join("health_descriptor");
        create_dir_all(&health).unwrap();
        assert_eq!(read(&root, 0), Some([0, 0, 0]), "it says nothing");
        write(health.join("eol_info"), "0x02\n").unwrap();
        write(health.join("life_time_estimation_a"), "0x01\n").unwrap();
        write(health.join("life_time_estimation_b"), "0x03\n").unwrap();
        assert_eq!(read(&root, 1), Some([2, 1, 3]));
    }

    #[test]
    fn wear_that_is_reserved_or_nonsense_is_unknown() {
        let (root, device) = sysfs("mmc0/mmc0:0001");
        write(device.join("pre_eol_info"), "0x04\n").unwrap();
        for (text, expected) in
            [("0x0c 0xff", [0, 0, 0]), ("", [0, 0, 0]), ("0x0b", [0, 11, 0]), ("x 0x10000", [0, 0, 0])]
        {
            write(device.join("life_time"), text).unwrap();
            assert_eq!(read(&root, 0), Some(expected), "{text}");
        }
    }
}
