//! An embedded httpbin: an upstream that says what it received, in the JSON form of go-httpbin v2.
//!
//! It is there so that the quickstart needs no second program, and so that tests have an upstream at hand. It follows
//! go-httpbin v2.15 in paths, fields, status codes and limits: header names in canonical form (`User-Agent`), every header
//! value in an array, `Host` among the headers, keys sorted, two spaces of indentation. It serves HTTP/1.1 and HTTP/2
//! with prior knowledge (h2c) on one port.
//!
//! It is not a byte-for-byte copy:
//! - the `detail` of an error, the sample documents and the landing page are its own words;
//! - `/bytes` with a `seed` repeats itself, but with other bytes than go-httpbin's generator;
//! - JSON numbers in a request come back as written, where go-httpbin rounds them to 64-bit floats;
//! - `/status/1xx` is refused: an informational status cannot end an exchange;
//! - over HTTP/1.1, `/trailers` sends trailers only to a client that says `TE: trailers` (RFC 9110 §6.5.1), because the
//!   HTTP library underneath holds to that; over HTTP/2 it always does;
//! - digest authentication, images, ranges and a few documents are left out.
//!
//! ```
//! use axum::{body::Body, http::Request};
//! use tower::ServiceExt as _;
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let request = Request::get("/status/418").body(Body::empty()).unwrap();
//! let response = quickstart::httpbin::router().oneshot(request).await.unwrap();
//! assert_eq!(response.status(), 418);
//! # });
//! ```

use std::{future::Future, io, net::SocketAddr, time::Duration};

use axum::{
    Router, middleware,
    routing::{any, delete, get, head, patch, post, put},
    serve::ListenerExt as _,
};
use tokio::{net::TcpListener, sync::oneshot};

mod auth;
mod body;
mod cross_origin;
mod duration;
mod echo;
mod encoded;
mod page;
mod query;
mod reply;
mod seen;
mod status;
mod stream;
mod timed;
mod websocket;

#[cfg(test)]
mod serve_tests;
#[cfg(test)]
mod tests;

/// The most bytes of a request body that are read, and of a response body that can be asked for (1 MiB).
pub const MAX_BODY: usize = 1024 * 1024;

/// The longest time a request can ask to take (`/delay`, `/drip`, `/sse`, `/websocket/echo`).
pub const MAX_DURATION: Duration = Duration::from_secs(10);

/// The application, without a listener.
///
/// `origin` in the answers is the peer's address when the router runs behind
/// [`into_make_service_with_connect_info`](Router::into_make_service_with_connect_info), and empty otherwise.
pub fn router() -> Router {
    Router::new()
        .route("/", get(page::landing))
        .route("/headers", any(echo::headers))
        .route("/ip", any(echo::ip))
        .route("/user-agent", any(echo::user_agent))
        .route("/uuid", any(echo::uuid))
        .route("/hostname", any(echo::hostname))
        .route("/get", get(echo::without_body))
        .route("/head", head(echo::without_body))
        .route("/post", post(echo::with_body))
        .route("/put", put(echo::with_body))
        .route("/patch", patch(echo::with_body))
        .route("/delete", delete(echo::with_body))
        .route("/anything", any(echo::anything))
        .route("/anything/", any(echo::anything))
        .route("/anything/{*rest}", any(echo::anything))
        .route("/response-headers", any(echo::response_headers))
        .route("/cache", any(echo::cache))
        .route("/cache/{seconds}", any(echo::cache_control))
        .route("/cookies", any(auth::cookies))
        .route("/cookies/set", any(auth::set_cookies))
        .route("/cookies/delete", any(auth::delete_cookies))
        .route("/basic-auth/{user}/{password}", any(auth::basic))
        .route(
            "/hidden-basic-auth/{user}/{password}",
            any(auth::hidden_basic),
        )
        .route("/bearer", any(auth::bearer))
        .route("/status/{code}", any(status::status))
        .route("/unstable", any(status::unstable))
        .route("/redirect/{times}", any(status::redirect))
        .route("/relative-redirect/{times}", any(status::relative_redirect))
        .route("/absolute-redirect/{times}", any(status::absolute_redirect))
        .route("/redirect-to", any(status::redirect_to))
        .route("/gzip", any(encoded::gzip))
        .route("/deflate", any(encoded::deflate))
        .route("/base64/{data}", any(encoded::base64_decode))
        .route("/base64/{operation}/{data}", any(encoded::base64))
        .route("/bytes/{count}", any(stream::bytes))
        .route("/stream-bytes/{count}", any(stream::stream_bytes))
        .route("/stream/{count}", any(stream::lines))
        .route("/trailers", any(stream::trailers))
        .route("/delay/{duration}", any(timed::delay))
        .route("/drip", any(timed::drip))
        .route("/sse", any(timed::sse))
        .route(
            "/websocket/echo",
            get(websocket::echo).connect(websocket::echo),
        )
        .route("/json", any(page::json))
        .route("/html", any(page::html))
        .route("/xml", any(page::xml))
        .route("/robots.txt", any(page::robots))
        .route("/deny", any(page::deny))
        .fallback(reply::not_found)
        .method_not_allowed_fallback(reply::method_not_allowed)
        .layer(middleware::from_fn(cross_origin::cross_origin))
}

/// Serves [`router`] on `listener` until `shutdown` completes, then lets requests in flight finish.
///
/// Exchanges that are still open [`MAX_DURATION`] and a second after `shutdown` are cut.
///
/// # Errors
/// When the listener cannot be used. Errors of single connections end those connections only.
pub async fn serve(
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    // Small responses must not wait for an acknowledgement of the one before (Nagle); a socket that refuses still works.
    let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
    let (stopping, stopped) = oneshot::channel();
    let server = axum::serve(
        listener,
        router().into_make_service_with_connect_info::<SocketAddr>(),
    )
    .with_graceful_shutdown(async move {
        shutdown.await;
        // The receiver is gone only when the server has already ended.
        let _ = stopping.send(());
    });
    let overdue = async move {
        if stopped.await.is_ok() {
            tokio::time::sleep(MAX_DURATION + Duration::from_secs(1)).await;
        } else {
            std::future::pending().await
        }
    };
    tokio::select! {
        served = server => served,
        () = overdue => Ok(()),
    }
}
