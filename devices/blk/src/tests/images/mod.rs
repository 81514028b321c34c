//! Disks in image files.

mod check;
mod crash;

use super::*;
use crate::Locking;
