//! Byte streams that are one of several, or around another.

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

/// Methods of `AsyncRead` and `AsyncWrite` that do what the stream in a field does, for an `impl` that has others of its own.
macro_rules! forward_io {
    ($io:ident: $($method:ident),+) => { $($crate::http::io::forward_io!(@$method $io);)+ };
    (@poll_read $io:ident) => {
        fn poll_read(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
            buf: &mut ::tokio::io::ReadBuf<'_>,
        ) -> ::std::task::Poll<::std::io::Result<()>> {
            ::std::pin::Pin::new(&mut self.$io).poll_read(cx, buf)
        }
    };
    (@poll_write $io:ident) => {
        fn poll_write(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
            buf: &[u8],
        ) -> ::std::task::Poll<::std::io::Result<usize>> {
            ::std::pin::Pin::new(&mut self.$io).poll_write(cx, buf)
        }
    };
    (@poll_write_vectored $io:ident) => {
        fn poll_write_vectored(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
            bufs: &[::std::io::IoSlice<'_>],
        ) -> ::std::task::Poll<::std::io::Result<usize>> {
            ::std::pin::Pin::new(&mut self.$io).poll_write_vectored(cx, bufs)
        }
    };
    (@is_write_vectored $io:ident) => {
        fn is_write_vectored(&self) -> bool {
            self.$io.is_write_vectored()
        }
    };
    (@poll_flush $io:ident) => {
        fn poll_flush(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
        ) -> ::std::task::Poll<::std::io::Result<()>> {
            ::std::pin::Pin::new(&mut self.$io).poll_flush(cx)
        }
    };
    (@poll_shutdown $io:ident) => {
        fn poll_shutdown(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
        ) -> ::std::task::Poll<::std::io::Result<()>> {
            ::std::pin::Pin::new(&mut self.$io).poll_shutdown(cx)
        }
    };
}

pub(crate) use {delegate_io, forward_io};
