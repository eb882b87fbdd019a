/** Figures as text. They have a fixed number of digits, so that nothing beside them moves. */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (value) => whole.format(value);

export const seconds = (value, digits = 1) => `${Number(value).toFixed(digits)} s`;

export const plural = (value, one, many) => `${count(value)} ${value === 1 ? one : many}`;

/** As many digits as it needs: $1.28, $0.00047, $0. */
export function money(value) {
  if (value === 0) return "$0";
  if (value >= 1) return `$${value.toFixed(2)}`;
  return `$${Number(value.toPrecision(2)).toFixed(12).replace(/(\.\d\d\d*?)0+$/, "$1")}`;
}

/** 12:04:09.071 */
export function clockTime(date) {
  const two = (value) => String(value).padStart(2, "0");
  const ms = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${ms}`;
}
