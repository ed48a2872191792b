// BullMQ: node on_bullmq.mjs ROLE URL COUNT [CONCURRENCY]. A member of a crew, see crew.py.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

// The packages are installed in the folder in which this runs, not beside this file.
const { Queue, Worker } = createRequire(`${process.cwd()}/`)('bullmq');

const BULK = 1000;
const [role, url, count, concurrency] = [
  process.argv[2], new URL(process.argv[3]), Number(process.argv[4]), Number(process.argv[5] ?? 1),
];
const connection = { host: url.hostname, port: Number(url.port), password: decodeURIComponent(url.password) };
const queue = new Queue('bench', { connection });
const now = () => Number(process.hrtime.bigint()) / 1e9; // CLOCK_MONOTONIC, as Python's time.monotonic

async function enqueue() {
  for (let i = 0; i < count; i += 1) await queue.add('job', {});
  return { done: count, end: now() };
}

async function bulk() {
  for (let i = 0; i < count; i += BULK) {
    const size = Math.min(BULK, count - i);
    await queue.addBulk(Array.from({ length: size }, () => ({ name: 'job', data: {} })));
  }
  return { done: count, end: now() };
}

async function dequeue(worker) {
  let done = 0;
  let end = now();
  worker.on('completed', () => { done += 1; end = now(); });
  worker.run();
  for (;;) {
    await new Promise((resolve) => { setTimeout(resolve, 50); });
    const left = await queue.getJobCounts('wait', 'active');
    if (left.wait + left.active === 0) return { done, end };
  }
}

await queue.waitUntilReady();
let worker = null;
if (role === 'dequeue') {
  worker = new Worker('bench', async () => null, { connection, autorun: false, concurrency });
  await worker.waitUntilReady();
}
console.log('ready');
await new Promise((resolve) => { createInterface({ input: process.stdin }).once('line', resolve); });
const start = now();
const spent = process.cpuUsage();
const answer = role === 'dequeue' ? await dequeue(worker) : await { enqueue, bulk }[role]();
const { user, system } = process.cpuUsage(spent);
console.log(JSON.stringify({ start, cpu: (user + system) / 1e6, ...answer }));
process.exit(0);
