//! Ports for programs that cannot be asked which one they took.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

// Below the range from which systems take ports for outgoing connections, so that none of those ever sits on one.
const FIRST: u16 = 10_200;
const COUNT: u16 = 7_800;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port on 127.0.0.1 that nothing listened on a moment ago and that this process hands out once.
///
/// # Errors
/// When the whole range is taken.
pub fn free() -> anyhow::Result<u16> {
    // Two test programs at the same time begin at different places.
    let offset = u16::try_from(std::process::id() % u32::from(COUNT))?.wrapping_mul(37) % COUNT;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (offset.wrapping_add(step)) % COUNT;
        if TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}
