//! UDP sockets that know the address they were asked on and answer from it (ip(7), IP_PKTINFO).

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Room for one `in_pktinfo` control message, aligned as `cmsghdr` wants it.
#[repr(align(8))]
struct Control([u8; 64]);

/// A datagram that arrived.
pub(crate) struct Asked {
    /// Bytes of the datagram.
    pub(crate) len: usize,
    /// Who sent it.
    pub(crate) from: SocketAddrV4,
    /// The address of this node that it was sent to.
    pub(crate) to: Ipv4Addr,
}

/// A UDP server on every address of its node.
pub(crate) struct Responder(UdpSocket);

impl Responder {
    /// Binds `port` on all addresses; receiving gives up after `patience`.
    pub(crate) fn bind(port: u16, patience: Duration) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        socket.set_read_timeout(Some(patience))?;
        let one: libc::c_int = 1;
        // SAFETY: `one` lives through the call and its size is given.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_PKTINFO,
                (&raw const one).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(socket))
    }

    /// Waits for a datagram.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Asked> {
        let mut control = Control([0; 64]);
        // SAFETY: both are plain C structures for which all-zero is a valid value.
        let (mut name, mut header): (libc::sockaddr_in, libc::msghdr) =
            unsafe { (zeroed(), zeroed()) };
        let mut vector =
            libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        header.msg_name = (&raw mut name).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control.0.len();
        // SAFETY: every pointer in the header is to memory that outlives the call, with its true
        // length.
        let len = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut header, 0) };
        let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
        let to = asked_address(&header).ok_or(io::ErrorKind::InvalidData)?;
        let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
        Ok(Asked { len, from: SocketAddrV4::new(ip, u16::from_be(name.sin_port)), to })
    }

    /// Answers `asked` from the address it was sent to.
    pub(crate) fn answer(&self, asked: &Asked, bytes: &[u8]) -> io::Result<()> {
        let mut control = Control([0; 64]);
        // SAFETY: all three are plain C structures for which all-zero is a valid value.
        let (mut name, mut header, mut info): (libc::sockaddr_in, libc::msghdr, libc::in_pktinfo) =
            unsafe { (zeroed(), zeroed(), zeroed()) };
        name.sin_family = libc::AF_INET as libc::sa_family_t;
        name.sin_port = asked.from.port().to_be();
        name.sin_addr.s_addr = u32::from(*asked.from.ip()).to_be();
        info.ipi_spec_dst.s_addr = u32::from(asked.to).to_be();
        let mut vector =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        header.msg_name = (&raw mut name).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: `control` has room for one in_pktinfo message (CMSG_SPACE of it is 32), and
        // sendmsg only reads.
        let sent = unsafe {
            let size = size_of::<libc::in_pktinfo>() as libc::c_uint;
            header.msg_controllen = libc::CMSG_SPACE(size) as usize;
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::IPPROTO_IP;
            (*first).cmsg_type = libc::IP_PKTINFO;
            (*first).cmsg_len = libc::CMSG_LEN(size) as usize;
            libc::CMSG_DATA(first).cast::<libc::in_pktinfo>().write_unaligned(info);
            libc::sendmsg(self.0.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn asked_address(header: &libc::msghdr) -> Option<Ipv4Addr> {
    // SAFETY: the header was filled in by recvmsg; the CMSG functions stay inside msg_controllen.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::IPPROTO_IP && (*message).cmsg_type == libc::IP_PKTINFO
            {
                let info = libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().read_unaligned();
                return Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)));
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}
