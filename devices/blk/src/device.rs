//! The control half: the disk's identity, its configuration space, and what its handlers share.
//!
//! The front end may ask anything at any time; what it may change is one byte, the write cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use outboard_device::defs::DeviceId;
use outboard_device::defs::blk::{
    Config, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_LIFETIME, F_SECURE_ERASE, F_ZONED, ID_BYTES, SECTOR_SIZE,
    WRITEBACK_OFFSET,
};
use outboard_device::serde_json::{Value, json};
use outboard_device::{Device, DeviceError, Features, Group, Patience, Profile};
use zerocopy::IntoBytes;

use crate::config::{Extras, capacity, config, features, logical_block};
use crate::counters::{QueueCounters, Totals};
use crate::handler::{BlkHandler, Missing};
use crate::host::{DiskErrands, Host, Wear, is_loss};
use crate::limits::{Gate, Throttle};
use crate::options::BlkOptions;
use crate::syncs::Syncs;
use crate::zones::{ZoneQueue, Zones};

/// How often the disk is looked at, whether it has grown.
const LOOK: Duration = Duration::from_secs(1);

/// A disk.
pub struct Blk {
    profile: Profile,
    config: Config,
    host: Host,
    errands: Option<DiskErrands>,
    zones: Option<Arc<Zones>>,
    shared: Arc<Shared>,
    throttle: Arc<Throttle>,
    /// By queue.
    counters: Vec<Arc<QueueCounters>>,
    serial: [u8; ID_BYTES],
    read_only: bool,
    /// The write cache after a reset.
    writeback: bool,
    watch_size: bool,
}

/// What handlers look at with each request, and the control half changes. None of it orders anything else.
pub(crate) struct Shared {
    sectors: AtomicU64,
    writeback: AtomicBool,
    unsettled: AtomicBool,
    lost: AtomicBool,
    pub(crate) syncs: Arc<Syncs>,
}

impl Shared {
    /// Size of the disk in sectors.
    pub(crate) fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Relaxed)
    }

    /// Written data may wait for the next flush.
    pub(crate) fn writeback(&self) -> bool {
        self.writeback.load(Ordering::Relaxed)
    }

    /// What was written before the cache was switched off may not be stable yet: a write that must be is followed by a
    /// flush of everything.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.unsettled.load(Ordering::Relaxed)
    }

    /// Written data could not be made stable: no flush may succeed any more, on any queue.
    pub(crate) fn lose(&self) {
        if !self.lost.swap(true, Ordering::Relaxed) {
            tracing::error!("written data is lost: flushes fail from now on; restart the program to go on");
        }
    }

    /// Whether [`Shared::lose`] was called.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Blk {
    /// Opens the disk.
    ///
    /// # Errors
    /// The image cannot be opened as asked, or is smaller than a block.
    pub fn open(options: &BlkOptions) -> Result<Self, DeviceError> {
        Self::over(Host::open(options)?, None, options)
    }

    /// A disk over what was opened; `wear` is for tests to say, who have none.
    pub(crate) fn over(host: Host, wear: Option<Wear>, options: &BlkOptions) -> Result<Self, DeviceError> {
        logical_block(host.shape(), options.block_size)?;
        let zones = Zones::open(&host, options)?.map(Arc::new);
        let wear = wear.or_else(|| host.wear());
        let extras = Extras {
            zoned: zones.as_deref().map(Zones::config),
            erase: host.erase(),
            lifetime: wear.is_some(),
            aligned_from: host.aligned_from(),
        };
        let errands = host.errands(extras.erase.is_some(), wear, zones.as_ref())?;
        let mut config = config(host.shape(), &extras, options);
        let left_out = host.size(config.blk_size.get())? - config.capacity.get() * SECTOR_SIZE;
        if left_out > 0 {
            tracing::warn!("the last {left_out} bytes of the disk make no block and are left out");
        }
        if let Some(zones) = &zones {
            config.capacity = zones.sectors().into();
        }
        let profile = Profile::new(DeviceId::BLK, "blk")
            .feature(features(host.shape(), &extras, options.read_only).0)
            .parallel_queues("requestq", options.queue_size, options.num_queues);
        let shared = Shared {
            sectors: AtomicU64::new(config.capacity.get()),
            writeback: AtomicBool::new(options.writeback),
            unsettled: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            syncs: Arc::default(),
        };
        let mut serial = [0; ID_BYTES];
        for (place, byte) in serial.iter_mut().zip(options.serial.iter().flat_map(|serial| serial.bytes())) {
            *place = byte;
        }
        Ok(Self {
            profile,
            config,
            host,
            errands,
            zones,
            shared: Arc::new(shared),
            throttle: Arc::new(Throttle::new(&options.limits)),
            counters: (0..options.num_queues).map(|_| Arc::default()).collect(),
            serial,
            read_only: options.read_only,
            writeback: options.writeback,
            watch_size: options.watch_size,
        })
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// The logical block, in bytes.
    pub(crate) fn block(&self) -> u32 {
        self.config.blk_size.get()
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Zones are counted when the program starts, and the disk keeps its size.
    pub(crate) fn is_zoned(&self) -> bool {
        self.zones.is_some()
    }

    /// What the guest is shown, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.config.capacity.get() * SECTOR_SIZE
    }

    /// Shows a disk of so many bytes, in whole blocks. True if it was of another size.
    pub(crate) fn show(&mut self, bytes: u64) -> bool {
        let sectors = capacity(bytes, self.block());
        let before = self.config.capacity.get();
        if sectors == before {
            return false;
        }
        tracing::info!("the disk has {sectors} sectors now, it had {before}");
        self.config.capacity = sectors.into();
        self.shared.sectors.store(sectors, Ordering::Relaxed);
        true
    }

    /// Makes what was written stable.
    pub(crate) fn sync(&self, patience: &Patience<'_>) -> Result<(), DeviceError> {
        let _syncing = self.shared.syncs.begin();
        let zones = self.zones.as_ref();
        let synced = self.host.sync(patience).and_then(|()| zones.map_or(Ok(()), |zones| zones.sync()));
        if let Err(DeviceError::Host { source, .. }) = &synced
            && is_loss(source)
        {
            self.shared.lose();
        }
        synced.and_then(|()| match self.shared.has_lost() {
            true => Err(DeviceError::Invalid("written data is lost".to_owned())),
            false => Ok(()),
        })
    }

    fn set_writeback(&mut self, on: bool) {
        self.config.writeback = on.into();
        self.shared.writeback.store(on, Ordering::Relaxed);
    }
}

impl Device for Blk {
    type Handler = BlkHandler;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn config(&self) -> &[u8] {
        self.config.as_bytes()
    }

    /// The write cache is all that a driver may set (VIRTIO 1.3, 5.2.4). Switched off, it is emptied first: a driver
    /// that believes in no cache will not flush what it wrote before. If the storage does not answer in time, or has no
    /// space for it, nothing is lost: the driver is refused, and shown a cache as before. Should it not look, its writes
    /// are stable all the same.
    fn write_config(&mut self, offset: u32, data: &[u8], patience: &Patience<'_>) -> Result<(), DeviceError> {
        match (offset, data) {
            (WRITEBACK_OFFSET, [0]) => {
                let before = self.config.writeback;
                self.set_writeback(false);
                let synced = self.sync(patience);
                match &synced {
                    Ok(()) => self.shared.unsettled.store(false, Ordering::Relaxed),
                    Err(_) if self.shared.has_lost() => {}
                    Err(_) => {
                        self.shared.unsettled.store(true, Ordering::Relaxed);
                        self.config.writeback = before;
                    }
                }
                synced
            }
            (WRITEBACK_OFFSET, [1]) => {
                self.set_writeback(true);
                Ok(())
            }
            (WRITEBACK_OFFSET, [other]) => Err(DeviceError::Invalid(format!("write cache {other}: 0 or 1"))),
            _ => Err(DeviceError::ReadOnlyConfig),
        }
    }

    /// A driver that cannot flush is not to see a cache (VIRTIO 1.3, 5.2.5.2). It is never switched on: the driver may
    /// have switched it off already.
    fn agreed(&mut self, agreed: Features) {
        if agreed.has(F_CONFIG_WCE) && !agreed.has(F_FLUSH) {
            self.set_writeback(false);
        }
    }

    fn handler(&mut self, group: Group, agreed: Features) -> Result<BlkHandler, DeviceError> {
        // The driver may have switched the cache on meanwhile.
        self.agreed(agreed);
        Ok(BlkHandler {
            medium: self.host.medium()?,
            shared: Arc::clone(&self.shared),
            gate: Gate::new(&self.throttle),
            // A group is a queue.
            counters: self.counters.get(usize::from(group.0)).cloned().unwrap_or_default(),
            serial: self.serial,
            read_only: self.read_only,
            discard: self.profile.features.has(F_DISCARD),
            erase: self.profile.features.has(F_SECURE_ERASE),
            lifetime: self.profile.features.has(F_LIFETIME),
            errands: self.errands.clone(),
            flush: agreed.has(F_FLUSH),
            missing: Missing::default(),
            zones: self.zones.as_ref().map(|zones| ZoneQueue::new(zones, agreed.has(F_ZONED))).transpose()?,
        })
    }

    fn reset(&mut self) {
        self.set_writeback(self.writeback);
    }

    fn refresh(&mut self) -> Result<bool, DeviceError> {
        if self.is_zoned() { Ok(false) } else { self.look_again() }
    }

    fn look_every(&self) -> Option<Duration> {
        (self.watch_size && !self.is_zoned() && self.host.is_cheap_to_look_at()).then_some(LOOK)
    }

    fn look(&mut self) -> bool {
        self.look_for_growth()
    }

    fn control(&mut self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        match command {
            "resize" => self.resize(arguments),
            "limits" => {
                self.throttle.change(arguments)?;
                Ok(json!({ "limits": self.throttle.show(), "throttled": Totals(&self.counters).throttled() }))
            }
            _ => Err(DeviceError::UnknownCommand(command.to_owned())),
        }
    }

    fn status(&self) -> Value {
        let totals = Totals(&self.counters);
        json!({
            "size": self.bytes(),
            "block_size": self.block(),
            "read_only": self.read_only,
            "writeback": self.shared.writeback(),
            "lost": self.shared.has_lost(),
            "requests": totals.requests(),
            "errors": totals.errors(),
            "limits": self.throttle.show(),
            "throttled": totals.throttled(),
        })
    }
}

impl Drop for Blk {
    fn drop(&mut self) {
        Totals(&self.counters).log();
    }
}
