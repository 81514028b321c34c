//! The control half: opening, configuration space, cache mode, growth.

use outboard_device::defs::blk::{
    Config, F_DISCARD, F_MQ, F_RO, F_SEG_MAX, F_SIZE_MAX, F_TOPOLOGY, F_WRITE_ZEROES, S_IOERR, S_OK, T_IN,
};
use outboard_device::serde_json::{Value, json};
use zerocopy::FromBytes;

use super::*;

fn config(device: &Blk) -> Config {
    Config::read_from_bytes(device.config()).unwrap()
}

#[test]
fn device_offers_what_works_and_fills_in_all_of_it() {
    let disk = Disk::file(Format::Split);
    let features = disk.device.profile().features;
    assert!(features.has(F_SEG_MAX | F_TOPOLOGY | F_MQ | F_FLUSH | F_CONFIG_WCE | F_WRITE_ZEROES));
    assert!(!features.has(F_SIZE_MAX) && !features.has(F_RO));
    let config = config(&disk.device);
    assert_eq!(disk.device.config().len(), 96);
    assert_eq!(config.capacity.get(), SIZE as u64 / 512);
    assert_eq!(config.blk_size.get(), 512);
    assert_eq!(features.has(F_DISCARD), config.max_discard_sectors.get() > 0);
    let queues = &disk.device.profile().queues;
    assert_eq!(queues.len(), 16);
    assert_eq!(queues[15].group, Group(15), "each queue can have a thread of its own");
}

#[test]
fn default_disk_is_memory_of_64_mib() {
    let device = Blk::open(&BlkOptions::default()).unwrap();
    assert_eq!(config(&device).capacity.get(), 64 << 11);
    assert!(device.profile().features.has(F_DISCARD));
}

#[test]
fn ram_disk_larger_than_memory_is_sparse() {
    let options = BlkOptions { ram: Some(1 << 42), ..BlkOptions::default() };
    let mut disk = Disk::open(&options, None, Format::Packed, AGREED);
    let last = (1 << 33) - 1;
    assert_eq!(disk.write(last, &[5; 512]), S_OK);
    assert_eq!(disk.read(last - 1, 1024), [[0; 512], [5; 512]].concat());
}

#[test]
fn ram_disk_is_one_for_all_queues() {
    let mut disk = Disk::ram(Format::Split);
    let second = disk.device.handler(Group(1), AGREED).unwrap();
    let mut second = Bench::new(second, Format::Packed);
    assert_eq!(disk.write(9, &[6; 512]), S_OK);
    let (outputs, len) = second.request(&[&header(T_IN, 9)], &[512, 1]);
    assert_eq!((outputs[0].as_slice(), len), (&[6; 512][..], 513));
}

#[test]
fn driver_that_cannot_flush_sees_no_write_cache() {
    let mut disk = Disk::file(Format::Split);
    disk.device.agreed(AGREED);
    assert_eq!(config(&disk.device).writeback, 1);
    disk.device.agreed(Features(F_CONFIG_WCE));
    assert_eq!(config(&disk.device).writeback, 0);
    disk.device.agreed(AGREED);
    assert_eq!(config(&disk.device).writeback, 0, "what is off stays off until the reset");
    disk.device.reset();
    assert_eq!(config(&disk.device).writeback, 1);
}

#[test]
fn write_config_takes_the_cache_mode_and_nothing_else() {
    let mut disk = Disk::file(Format::Split);
    for (offset, data) in
        [(0, vec![1; 8]), (31, vec![0; 2]), (33, vec![0]), (32, vec![0; 2]), (4000, vec![1]), (32, vec![])]
    {
        let result = disk.device.write_config(offset, &data, &Patience::until(&|| false));
        assert!(matches!(result, Err(DeviceError::ReadOnlyConfig)), "{offset}");
    }
    assert!(matches!(disk.switch_cache(2), Err(DeviceError::Invalid(_))));
    disk.switch_cache(0).unwrap();
    assert_eq!(config(&disk.device).writeback, 0);
    disk.device.reset();
    assert_eq!(config(&disk.device).writeback, 1, "back to what the command line says");
}

#[test]
fn driver_that_switches_the_cache_but_cannot_flush_begins_without() {
    let mut disk = Disk::ram(Format::Split);
    disk.device.handler(Group(1), Features(F_FLUSH)).unwrap();
    assert_eq!(config(&disk.device).writeback, 1);
    disk.device.handler(Group(1), Features(F_CONFIG_WCE)).unwrap();
    assert_eq!(config(&disk.device).writeback, 0);
    disk.device.reset();
    assert_eq!(config(&disk.device).writeback, 1);
}

#[test]
fn file_that_grew_is_seen_after_a_refresh() {
    for format in FORMATS {
        let mut disk = Disk::file(format);
        assert!(!disk.device.refresh().unwrap());
        disk.image().set_len(SIZE as u64 + 1024 + 511).unwrap();
        assert_eq!(disk.request(T_IN, 128, &[], 512).1, S_IOERR);
        assert!(disk.device.refresh().unwrap());
        assert_eq!(config(&disk.device).capacity.get(), 130, "in whole sectors");
        assert_eq!(disk.read(128, 1024), [0; 1024], "without a new handler");
        disk.image().set_len(0).unwrap();
        assert!(disk.device.refresh().is_err());
        assert_eq!(config(&disk.device).capacity.get(), 130);
    }
}

#[test]
fn open_of_a_file_that_cannot_be_written_names_the_way_out() {
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(4096).unwrap();
    // A program that runs cannot be written, not even by root.
    let this = std::env::current_exe().unwrap();
    let mut options = BlkOptions { blk_file: Some(this), ..BlkOptions::default() };
    let error = Blk::open(&options).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("for writing (--read-only serves it)"), "{error}");
    options.read_only = true;
    assert!(Blk::open(&options).unwrap().profile().features.has(F_RO));
    options.read_only = false;
    options.blk_file = Some(image.path().into());
    options.block_size = Some(4096);
    assert_eq!(config(&Blk::open(&options).unwrap()).capacity.get(), 8);
    image.as_file().set_len(4095).unwrap();
    let error = Blk::open(&options).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("at least one block of 4096"), "{error}");
}

fn resize(disk: &mut Disk, arguments: &Value) -> Result<Value, String> {
    disk.device.control("resize", arguments).map_err(|error| error.to_string())
}

#[test]
fn resize_grows_the_file_and_the_disk() {
    for format in FORMATS {
        let mut disk = Disk::file(format);
        assert_eq!(disk.request(T_IN, 128, &[], 512).1, S_IOERR);
        let answer = resize(&mut disk, &json!({ "size": 2 * SIZE })).unwrap();
        assert_eq!(answer, json!({ "size": 2 * SIZE, "before": SIZE }));
        assert_eq!(disk.image().metadata().unwrap().len(), 2 * SIZE as u64);
        assert_eq!(config(&disk.device).capacity.get(), 256);
        assert_eq!(disk.read(128, 512), [0; 512], "without a new handler");
        assert_eq!(disk.read(0, SIZE), pattern(0, SIZE));
    }
}

#[test]
fn resize_that_would_cut_data_off_is_refused_until_it_says_so() {
    let mut disk = Disk::file(Format::Split);
    // Grown, and nobody has looked: what lies behind the end that is known is data, too.
    disk.image().set_len(3 * SIZE as u64).unwrap();
    let error = resize(&mut disk, &json!({ "size": 2 * SIZE })).unwrap_err();
    assert!(error.contains("shrink=true"), "{error}");
    assert_eq!(disk.image().metadata().unwrap().len(), 3 * SIZE as u64);
    resize(&mut disk, &json!({ "size": 512, "shrink": true })).unwrap();
    assert_eq!(disk.image().metadata().unwrap().len(), 512);
    assert_eq!(config(&disk.device).capacity.get(), 1);
    assert_eq!(disk.read(0, 512), pattern(0, 512));
    assert_eq!(disk.request(T_IN, 1, &[], 512).1, S_IOERR);
}

#[test]
fn resize_without_a_size_takes_what_the_host_has() {
    let mut disk = Disk::file(Format::Packed);
    for size in [2 * SIZE, SIZE / 2] {
        disk.image().set_len(size as u64).unwrap();
        assert_eq!(resize(&mut disk, &json!({})).unwrap()["size"], size);
        assert_eq!(config(&disk.device).capacity.get(), size as u64 / 512);
    }
}

#[test]
fn resize_that_cannot_be_changes_nothing() {
    let mut disk = Disk::ram(Format::Split);
    assert!(resize(&mut disk, &json!({ "size": 2 * SIZE })).unwrap_err().contains("RAM disk"));
    assert!(
        resize(&mut disk, &json!({ "size": 512, "shrink": true })).unwrap_err().contains("RAM disk"),
        "nor smaller"
    );
    assert_eq!(config(&disk.device).capacity.get(), SIZE as u64 / 512);
    let mut disk = Disk::file_with(Format::Split, BlkOptions { read_only: true, ..BlkOptions::default() });
    assert!(resize(&mut disk, &json!({ "size": 2 * SIZE })).unwrap_err().contains("read-only"));
    let options = BlkOptions { block_size: Some(4096), ..BlkOptions::default() };
    let mut disk = Disk::file_with(Format::Split, options);
    assert!(resize(&mut disk, &json!({ "size": SIZE + 512 })).unwrap_err().contains("multiple"));
    // More than any file system takes.
    assert!(resize(&mut disk, &json!({ "size": (1_u64 << 63) - 4096 })).unwrap_err().contains("cannot set"));
    assert_eq!(disk.image().metadata().unwrap().len(), SIZE as u64);
    let unknown = disk.device.control("explode", &json!({}));
    assert!(matches!(unknown, Err(DeviceError::UnknownCommand(_))));
}

#[test]
fn look_sees_growth_and_nothing_else() {
    let mut disk = Disk::file(Format::Split);
    assert!(disk.device.look_every().is_some() && !disk.device.look());
    disk.image().set_len(SIZE as u64 - 512).unwrap();
    assert!(!disk.device.look());
    disk.image().set_len(0).unwrap();
    assert!(!disk.device.look());
    disk.image().set_len(SIZE as u64 + 512).unwrap();
    assert!(disk.device.look() && !disk.device.look());
    assert_eq!(config(&disk.device).capacity.get(), 129);
    assert_eq!(disk.device.status()["size"], SIZE + 512);
}

#[test]
fn look_at_what_does_not_grow_or_is_not_to_be_watched_is_not_asked_for() {
    assert_eq!(Disk::ram(Format::Split).device.look_every(), None);
    let options = BlkOptions { watch_size: false, ..BlkOptions::default() };
    assert_eq!(Disk::file_with(Format::Split, options).device.look_every(), None);
}

#[test]
fn resize_of_a_zoned_disk_is_refused() {
    let options = BlkOptions { zoned: Some(16 << 10), ram: Some(SIZE as u64), ..BlkOptions::default() };
    let mut device = Blk::open(&options).unwrap();
    for arguments in [json!({}), json!({ "size": 2 * SIZE })] {
        assert!(device.control("resize", &arguments).unwrap_err().to_string().contains("zoned"));
    }
    assert_eq!(device.look_every(), None);
    assert!(!device.refresh().unwrap());
}
