//! What back ends are measured with.

/// How long each back end is measured in each round.
pub(super) const SECONDS: &str = "2";

/// The name of a file in shared directories, as long as a disk.
pub(super) const SHARED_FILE: &str = "file";

/// A load.
pub(super) struct Load {
    /// In names of files.
    pub(super) name: &'static str,
    /// In tables.
    pub(super) title: &'static str,
    /// For `outboard bench`.
    pub(super) options: &'static [&'static str],
}

const BLK: &[Load] = &[
    Load { name: "read-1", title: "read 4 KiB at random, depth 1", options: &["--depth", "1"] },
    Load { name: "read-32", title: "read 4 KiB at random, depth 32", options: &["--depth", "32"] },
    Load {
        name: "write-32",
        title: "write 4 KiB at random, depth 32",
        options: &["--rw", "randwrite", "--depth", "32", "--destroy-data"],
    },
];

const RNG: &[Load] = &[
    Load { name: "read-1", title: "read, depth 1", options: &["--depth", "1"] },
    Load { name: "read-16", title: "read, depth 16", options: &["--depth", "16"] },
];

/// Of the file that is in every shared directory.
const FS: &[Load] = &[
    Load {
        name: "getattr-16",
        title: "getattr, depth 16",
        options: &["--path", SHARED_FILE, "--depth", "16"],
    },
    Load {
        name: "read-16",
        title: "read 4 KiB at random, depth 16",
        options: &["--op", "read", "--path", SHARED_FILE, "--depth", "16"],
    },
];

const NET: &[Load] = &[Load { name: "tx-32", title: "send 60 bytes, depth 32", options: &["--depth", "32"] }];

/// The loads for a type of device; none where it cannot be measured.
pub(super) fn of(kind: &str) -> &'static [Load] {
    match kind {
        "blk" => BLK,
        "rng" => RNG,
        "net" => NET,
        "fs" => FS,
        _ => &[],
    }
}
