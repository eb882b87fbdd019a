/** What every page has: theme, local times, copying, and questions before something is deleted. */

import "./theme.js";
import "./times.js";
import "./clipboard.js";
import "./dialog.js";
import "./requests.js";
