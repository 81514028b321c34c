//! Disks in image files.

mod check;
mod crash;
mod open;
mod overlay;
mod pool;
mod remote;

use super::*;
use crate::Locking;
