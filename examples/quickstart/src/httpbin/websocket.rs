//! A WebSocket that sends back what it gets (RFC 6455; over HTTP/2, RFC 8441).

use axum::{
    extract::ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    response::Response,
};
use tokio::time::timeout;

use super::{
    MAX_BODY, MAX_DURATION,
    query::{Values, first},
    reply::{self, Refusal},
    seen::Args,
};

/// Echoes messages for at most [`MAX_DURATION`].
///
/// `max_fragment_size` and `max_message_size` lower the limits, at most [`MAX_BODY`]; what exceeds them ends the
/// connection.
pub(super) async fn echo(
    Args(args): Args,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let fragment = limit(&args, "max_fragment_size", MAX_BODY / 2)?;
    let message = limit(&args, "max_message_size", MAX_BODY)?;
    if fragment > message {
        return Err(Refusal::bad(format!(
            "max_fragment_size {fragment} is larger than max_message_size {message}"
        )));
    }
    let upgrade = upgrade.map_err(|rejection| Refusal::bad(rejection.body_text()))?;
    Ok(upgrade
        .max_frame_size(fragment)
        .max_message_size(message)
        .on_upgrade(|socket| async move {
            // When the time is up the socket is dropped, which closes the connection.
            let _ = timeout(MAX_DURATION, send_back(socket)).await;
        }))
}

fn limit(args: &Values, name: &str, default: usize) -> Result<usize, Refusal> {
    let Some(text) = first(args, name) else {
        return Ok(default);
    };
    let size = reply::integer(text, name)?;
    usize::try_from(size)
        .ok()
        .filter(|size| (1..=MAX_BODY).contains(size))
        .ok_or_else(|| {
            Refusal::bad(format!(
                "invalid {name}: {size} is not between 1 and {MAX_BODY}"
            ))
        })
}

async fn send_back(mut socket: WebSocket) {
    // Pings and closes are answered by the library while it reads.
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_) | Message::Binary(_))
            && socket.send(message).await.is_err()
        {
            return;
        }
    }
}
