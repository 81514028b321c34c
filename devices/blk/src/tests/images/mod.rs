//! Disks in image files.

mod check;
mod crash;
mod open;
mod overlay;
mod pool;

use super::*;
use crate::Locking;
