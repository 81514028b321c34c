//! How guest memory reaches the back end, at the start and while rings run.

use outboard_vhost_user::{ProtocolFeatures, Request};

use crate::memory::{RegionSpec, payload};
use crate::options::Sharing;
use crate::{Error, Frontend};

impl Frontend {
    /// Tells the back end all regions, unless it knows them. Memory stays over a reset (vhost-user: RESET_DEVICE).
    pub(crate) fn share(&mut self) -> Result<(), Error> {
        if self.shared {
            return Ok(());
        }
        if self.by_slots() {
            for (region, fd) in self.memory.table()? {
                self.ask(Request::AddMemReg(region, fd))?;
            }
        } else {
            self.share_table()?;
        }
        self.shared = true;
        Ok(())
    }

    /// Sends the whole table (SET_MEM_TABLE), which replaces what the back end knows; rings may be running.
    ///
    /// # Errors
    /// The back end refuses; the connection fails.
    pub fn share_table(&mut self) -> Result<(), Error> {
        let table = self.memory.table()?;
        self.ask(Request::SetMemTable(table))?;
        self.shared = true;
        Ok(())
    }

    /// Adds a region; rings may be running.
    ///
    /// # Errors
    /// It overlaps another, the host or the back end refuses (the region is gone again then), or the connection
    /// fails.
    pub fn add_region(&mut self, spec: &RegionSpec) -> Result<(), Error> {
        let (region, fd) = self.memory.add(spec)?;
        if !self.shared {
            return Ok(());
        }
        let told = if self.by_slots() {
            self.ask(Request::AddMemReg(payload(&region), fd)).map(drop)
        } else {
            drop(fd);
            self.share_table()
        };
        if told.is_err() {
            self.memory.remove(&region)?;
        }
        told
    }

    /// Removes the region at guest address `gpa`, of which nothing may be in use; rings elsewhere may be running.
    ///
    /// # Errors
    /// There is none, or it is in use; the back end refuses; the connection fails.
    pub fn remove_region(&mut self, gpa: u64) -> Result<(), Error> {
        let region = self.memory.unused(gpa)?;
        if self.shared && self.by_slots() {
            self.ask(Request::RemMemReg(payload(&region)))?;
            return self.memory.remove(&region);
        }
        self.memory.remove(&region)?;
        if self.shared { self.share_table() } else { Ok(()) }
    }

    fn by_slots(&self) -> bool {
        self.options.sharing == Sharing::Slots && self.has(ProtocolFeatures::CONFIGURE_MEM_SLOTS)
    }
}
