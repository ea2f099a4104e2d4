// An echo for the checker, in node's net and crypto alone: its stages are for
// servers in any language. node tests/echo.js 9000
const crypto = require('crypto');
const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11', MOST = 2 ** 20;
const utf8 = new TextDecoder('utf-8', { fatal: true });
const check = (good, code) => { if (!good) throw code; };
const decode = bytes => { try { utf8.decode(bytes); } catch { throw 1007; } };
const bytes16 = number => Buffer.from([number >> 8, number & 255]);

require('net').createServer(socket => {
  let rest = Buffer.alloc(0), open = false, first = 0, parts = [], size = 0;
  socket.on('error', () => socket.destroy()).setNoDelay().on('data', data => {
    rest = Buffer.concat([rest, data]);
    try {
      if (!open) shake();
      while (open && takeFrame());
    } catch (code) { // of the Close frame, if it is no bug
      if (typeof code != 'number') throw code;
      end(code);
    }
  });
  function shake() {
    const at = rest.indexOf('\r\n\r\n'), head = rest.toString('latin1', 0, at);
    if (at < 0) return;
    const get = name => (RegExp(`\r\n${name}: *(.*)`, 'i').exec(head) || '')[1];
    const key = get('Sec-WebSocket-Key');
    open = /^GET \S+ HTTP\/1.1\r/.test(head) && key &&
      /^websocket$/i.test(get('Upgrade')) && get('Sec-WebSocket-Version') == 13;
    if (!open) return socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
    const proof = crypto.createHash('sha1').update(key + GUID).digest('base64');
    socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n' +
      `Connection: Upgrade\r\nSec-WebSocket-Accept: ${proof}\r\n\r\n`);
    rest = rest.subarray(at + 4);
  }
  function takeFrame() {
    if (rest.length < 2) return false;
    const fin = rest[0] >> 7, opcode = rest[0] & 15, short = rest[1] & 127;
    check(!(rest[0] & 0x70) && rest[1] >> 7, 1002);
    check([0, 1, 2, 8, 9, 10].includes(opcode), 1002);
    check(opcode < 8 ? !opcode == !!first : fin && short < 126, 1002);
    const at = { 126: 8, 127: 14 }[short] || 6; // where the payload begins
    if (rest.length < at) return false;
    const length = at == 6 ? short : at == 8 ? rest.readUInt16BE(2) :
      Number(rest.readBigUInt64BE(2));
    check(size + length <= MOST, 1009);
    if (rest.length < at + length) return false;
    const payload = Buffer.from(rest.subarray(at, at + length));
    for (let i = 0; i < length; i++) payload[i] ^= rest[at - 4 + i % 4];
    rest = rest.subarray(at + length);
    if (opcode == 8) hearClose(payload);
    if (opcode == 9) send(10, payload);
    if (opcode > 2) return true;
    first = opcode || first;
    size = parts.push(payload) && size + length;
    if (!fin) return true;
    const message = Buffer.concat(parts);
    if (first == 1) decode(message);
    send(first, message);
    [first, parts, size] = [0, [], 0];
    return true;
  }
  function hearClose(payload) {
    const code = payload.length ? parseInt(payload.toString('hex', 0, 2), 16) : 1000;
    check(code > 999 && code < 1015 && (code < 1004 || code > 1006) || code > 2999, 1002);
    decode(payload.subarray(2));
    end(code);
  }
  function end(code) {
    open = false;
    send(8, bytes16(code));
    socket.end();
  }
  function send(opcode, payload) {
    const n = payload.length, long = Buffer.alloc(8);
    long.writeUInt32BE(n, 4);
    const header = [0x80 | opcode, n < 126 ? n : n < 65536 ? 126 : 127];
    const more = n < 126 ? '' : n < 65536 ? bytes16(n) : long;
    socket.write(Buffer.concat([Buffer.from(header), Buffer.from(more), payload]));
  }
}).listen(process.argv[2], '127.0.0.1');
