//! Byte streams that are one of several.

/// Makes an enum of streams a stream (`AsyncRead`, `AsyncWrite`). A variant may hold something behind its stream.
macro_rules! delegate_io {
    ($type:ty { $($variant:path),* }) => {
        impl ::tokio::io::AsyncRead for $type {
            fn poll_read(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                buf: &mut ::tokio::io::ReadBuf<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                use std::pin::Pin;
                match self.get_mut() { $($variant(io, ..) => Pin::new(io).poll_read(cx, buf),)* }
            }
        }

        impl ::tokio::io::AsyncWrite for $type {
            fn poll_write(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                buf: &[u8],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                use std::pin::Pin;
                match self.get_mut() { $($variant(io, ..) => Pin::new(io).poll_write(cx, buf),)* }
            }

            fn poll_write_vectored(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                bufs: &[::std::io::IoSlice<'_>],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                use std::pin::Pin;
                match self.get_mut() {
                    $($variant(io, ..) => Pin::new(io).poll_write_vectored(cx, bufs),)*
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    $($variant(io, ..) => ::tokio::io::AsyncWrite::is_write_vectored(io),)*
                }
            }

            fn poll_flush(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                use std::pin::Pin;
                match self.get_mut() { $($variant(io, ..) => Pin::new(io).poll_flush(cx),)* }
            }

            fn poll_shutdown(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                use std::pin::Pin;
                match self.get_mut() { $($variant(io, ..) => Pin::new(io).poll_shutdown(cx),)* }
            }
        }
    };
}

pub(crate) use delegate_io;
