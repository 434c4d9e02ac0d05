//! Ports for programs that cannot be asked which one they took.
//!
//! A port that is handed out belongs to this process: a lock on a file of the port's number keeps other test programs on the
//! machine from taking the same one, between the look at the port and the start of the program that listens on it too.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;

// Below the range from which systems take ports for outgoing connections, so that none of those ever sits on one.
const FIRST: u16 = 10_200;
const COUNT: u16 = 7_800;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// Ports that a process keeps: more than its tests use at a time, and few enough that a suite of thousands does not take all.
const KEPT: usize = 512;

/// Locks of the ports that were handed out last.
static OWN: Mutex<VecDeque<File>> = Mutex::new(VecDeque::new());

/// A port on 127.0.0.1 that nothing listened on a moment ago and that no other test program is given
/// until this one has taken hundreds of others or ended.
///
/// # Errors
/// When the whole range is taken, or a lock cannot be opened.
pub fn free() -> anyhow::Result<u16> {
    // Two test programs at the same time begin at different places.
    let offset = u16::try_from(std::process::id() % u32::from(COUNT))?.wrapping_mul(37) % COUNT;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (offset.wrapping_add(step)) % COUNT;
        let Some(lock) = lock(&std::env::temp_dir(), port)? else {
            continue;
        };
        if TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).is_ok() {
            let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
            own.push_back(lock);
            if own.len() > KEPT {
                own.pop_front();
            }
            return Ok(port);
        }
    }
    anyhow::bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}

/// [`free`] for a program that takes the `count - 1` ports behind its own as well.
///
/// # Errors
/// As [`free`].
pub fn in_a_row(count: u16) -> anyhow::Result<u16> {
    loop {
        let first = free()?;
        let mut next = first;
        while next - first + 1 < count && free()? == next + 1 {
            next += 1;
        }
        if next - first + 1 == count {
            return Ok(first);
        }
    }
}

/// Takes a port's lock below `directory`; `None` if another process, or an earlier call, has it.
fn lock(directory: &Path, port: u16) -> anyhow::Result<Option<File>> {
    let directory = directory.join("extproc-test-ports");
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let file = directory.join(port.to_string());
    let open = OpenOptions::new().create(true).append(true).open(&file);
    let open = open.with_context(|| format!("cannot open {}", file.display()))?;
    match open.try_lock() {
        Ok(()) => Ok(Some(open)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", file.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lock of an open file is nobody else's, in this process neither.
    #[test]
    fn a_port_is_handed_out_once() -> anyhow::Result<()> {
        let directory = std::env::temp_dir().join(format!("ports-{}", std::process::id()));
        let first = lock(&directory, 1)?;
        assert!(first.is_some());
        assert!(lock(&directory, 1)?.is_none());
        assert!(lock(&directory, 2)?.is_some());
        drop(first);
        assert!(lock(&directory, 1)?.is_some());
        std::fs::remove_dir_all(directory)?;
        Ok(())
    }

    #[test]
    fn ports_in_a_row() -> anyhow::Result<()> {
        let first = in_a_row(3)?;
        for port in first..first + 3 {
            assert!(lock(&std::env::temp_dir(), port)?.is_none());
        }
        Ok(())
    }

    #[test]
    fn a_port_stays_taken() -> anyhow::Result<()> {
        let port = free()?;
        assert!(lock(&std::env::temp_dir(), port)?.is_none());
        assert_ne!(free()?, port);
        Ok(())
    }
}
