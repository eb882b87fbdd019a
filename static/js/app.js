/** The chat page. The modules meet through CustomEvents on the document:
 *
 *  run:pending     {chat}                     a message was sent, the server has not answered yet
 *  run:started     {run, chat, model, stopUrl, inspectorUrl}
 *  run:event       {run, number, event}       one event of the run, as it came
 *  run:connection  {run, state}               "lost", "resumed", or "polling": streams do not get through
 *  run:ended       {run, event}               its `done` or `error`
 *  run:checked     {run, isWhole, isExact, length}  what arrived was compared with what is stored
 *  run:settled     {run}                      the finished answer stands in the page
 *  answer:whole    {run, status, inspectorUrl} an answer that was not streamed
 *  run:returned    {}                         stopped before the first chunk: nothing of it is kept
 *  prompt:restore  {text, attachments}        a question that was taken back
 *  attachments:changed {isNew}                images of the next message came, went or were uploaded
 *  notice          {text, link?, untilEnd?}   something to say above the message box
 *  transcript:changed {isOurs?}               messages are gone or came from elsewhere
 *  chat:seen       {isRunning, activity}      how the list of chats has this one now
 *  chats:changed   {}                         another tab says so
 *
 * Answers come last: an answer that is being written starts to report as soon as it is defined.
 */

import "./page.js";
import "./viewport.js";
import "./panel.js";
import "./sidebar.js";
import "./title.js";
import "./totals.js";
import "./picker.js";
import "./shortcuts.js";
import "./scroll.js";
import "./console.js";
import "./inspector.js";
import "./context.js";
import "./composer.js";
import "./messages.js";
import "./elsewhere.js";
import "./answer.js";
